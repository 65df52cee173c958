import Glibc

/// The generator of one test (SplitMix64). The seed comes from TELE_SEED, or is drawn and printed, and alone replays
/// the test.
struct Chance: RandomNumberGenerator {
    let seed: UInt64
    private var state: UInt64

    init(for test: String = #function) {
        seed = Chance.setting("TELE_SEED") ?? UInt64.random(in: 0...UInt64.max)
        state = seed
        // Straight to the descriptor: the seed must be out before a decoder can trap.
        let line = "\(test): TELE_SEED=\(seed) TELE_FUZZ_COUNT=\(Chance.count)\n"
        _ = line.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    }

    /// Cases for each random test: TELE_FUZZ_COUNT, or what fits into a build.
    static let count = Int(setting("TELE_FUZZ_COUNT") ?? 100_000)

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    /// `bound` ≥ 1.
    mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }

    mutating func one(in chances: Int) -> Bool { below(chances) == 0 }

    mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }

    /// A setting that cannot be read must not silently run something else.
    private static func setting(_ name: String) -> UInt64? {
        guard let text = getenv(name).map({ String(cString: $0) }) else { return nil }
        guard let value = UInt64(text) else { fatalError("\(name) is not a number: \(text)") }
        return value
    }
}
