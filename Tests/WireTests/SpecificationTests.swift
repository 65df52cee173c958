import Testing
import Wire

/// Numbers that another tele relies on: a change here is another version of the protocol (docs/protocol.md §9).
struct SpecificationTests {
    /// protocol 9.1
    @Test func constantsAreThoseOfVersion1() {
        #expect(Specification.magic == Array("TELE".utf8))
        #expect(Specification.version == 1)
        #expect(Specification.dataBodyMaximum == 1_048_576)
        #expect(Specification.controlBodyMaximum == 1024)
        #expect(Specification.prefaceByteCount == 8)
        #expect(Specification.helloBodyMaximum == 1024)
        #expect(Specification.reasonMaximum == 256)
        #expect(Specification.initialCreditMaximum == 262_144)
        #expect(Specification.earlyMaximum == 65_536)
        #expect(Specification.offsetMaximum == 4_611_686_018_427_387_903)
    }

    /// protocol 3.13, 3.14
    @Test func codesAreThoseOfVersion1() {
        let resets: [ResetCode] = [.reset, .refused, .unreachable, .timedOut, .tooMany, .stopping]
        #expect(resets.map(\.rawValue) == [0, 1, 2, 3, 4, 5])
        let closes: [CloseCode] = [
            .done, .protocolViolation, .sessionUnknown, .versionUnsupported, .tooManySessions, .stopping, .stale, .exhausted,
        ]
        #expect(closes.map(\.rawValue) == [0, 1, 2, 3, 4, 5, 6, 7])
    }

    /// The longest frames that this side writes fit the sizes that it reserves.
    @Test func framesFitTheirMaximum() {
        let most = Varint.maximum
        let open = Frame.open(stream: most, target: most, sendCredit: most, receiveCredit: most)
        let close = Frame.close(code: CloseCode(rawValue: most), reason: String(repeating: "x", count: 300))
        let data = Frame.data(stream: most, payloadByteCount: Specification.dataBodyMaximum - Varint.maximumByteCount)
        #expect(encoded(open)?.count == 34)
        #expect(encoded(close)?.count == 1 + 2 + 8 + 256)
        #expect(encoded(data)?.count == Specification.dataHeaderMaximum)
        #expect(Welcome.leastByteCount <= Specification.controlFrameMaximum)
        #expect(Hello.leastByteCount <= Specification.prefaceByteCount + Specification.helloBodyMaximum)
    }
}
