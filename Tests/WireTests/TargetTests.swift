import Testing

@testable import Wire

/// Golden numbers: two builds must agree on them (docs/protocol.md 6.2).
@Suite struct TargetTests {
    @Test(
        arguments: [
            ("", 0), ("a", 0x2f63_dc4c_8601_ec8c), ("ssh", 0x025d_7f19_5cfe_e6f1), ("kafka", 0x285b_59cf_60b4_b461),
        ] as [(String, UInt64)])
    func aNameIsItsNumber(_ name: String, _ number: UInt64) {
        #expect(Specification.target(of: name) == number)
    }

    /// protocol 6.2
    @Test func everyNumberIsAVarint() {
        for name in 0..<1000 { #expect(Specification.target(of: "\(name)") <= Varint.maximum) }
    }
}
