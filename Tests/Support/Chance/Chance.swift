import Glibc

/// All chance of a test: SplitMix64 (Steele, Lea, Flood 2014) from one seed. The same seed gives the same run, bit for bit.
public struct Chance: RandomNumberGenerator, Sendable {
    @usableFromInline var state: UInt64

    @inlinable
    public init(seed: UInt64) { state = Chance.mixed(seed &+ 0x1234_5678_9abc_def1) }

    @inlinable
    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        return Chance.mixed(state)
    }

    /// A good hash of one word.
    @inlinable
    public static func mixed(_ word: UInt64) -> UInt64 {
        var z = word
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// 0..<bound; `bound` ≥ 1.
    @inlinable
    public mutating func below(_ bound: Int) -> Int {
        Int(next().multipliedFullWidth(by: UInt64(bound)).high)
    }

    @inlinable
    public mutating func within(_ range: ClosedRange<Int>) -> Int {
        range.lowerBound + below(range.upperBound - range.lowerBound + 1)
    }

    @inlinable
    public mutating func oneIn(_ count: Int) -> Bool { below(count) == 0 }

    /// 0...maximum, where every order of magnitude is as likely as any other.
    @inlinable
    public mutating func skewed(_ maximum: Int) -> Int {
        guard maximum > 0 else { return 0 }
        let bits = Int.bitWidth - maximum.leadingZeroBitCount
        return min(below(1 << below(bits + 1)), maximum)
    }

    @inlinable
    public mutating func pick<Element>(_ choices: [Element]) -> Element { choices[below(choices.count)] }

    public mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }
}

/// What a test's environment asks for. A setting that cannot be read must not silently run something else.
public enum ChanceSetting {
    /// TELE_SEED: a test runs with this seed only.
    public static let seed = number("TELE_SEED")
    /// TELE_FUZZ_COUNT: cases for each random test; else what fits into a build.
    public static let cases = Int(number("TELE_FUZZ_COUNT") ?? 30_000)

    /// The one seed of a random test that is the same in each run. Only here may a test want that rare things
    /// happened: a fresh seed may be an unlucky one.
    public static let fixed: UInt64 = 1

    /// Seeds for random tests: the one that was asked for, else `fixed` and fresh ones.
    public static func seeds(_ count: Int) -> [UInt64] { seed.map { [$0] } ?? [fixed] + (1..<count).map { _ in fresh() } }

    /// One seed: the one that was asked for, else a fresh one.
    public static func oneSeed() -> UInt64 { seed ?? fresh() }

    private static func fresh() -> UInt64 { UInt64.random(in: 0...UInt64.max) }

    private static func number(_ name: String) -> UInt64? {
        guard let text = getenv(name).map({ String(cString: $0) }) else { return nil }
        guard let value = UInt64(text) else { fatalError("\(name) is not a number: \(text)") }
        return value
    }
}
