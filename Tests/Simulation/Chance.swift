/// All chance of a run: SplitMix64 from one seed. The same seed gives the same run, bit for bit.
public struct Chance: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = Chance.mixed(seed &+ 0x1234_5678_9abc_def1) }

    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        return Chance.mixed(state)
    }

    /// A good hash of one word.
    static func mixed(_ word: UInt64) -> UInt64 {
        var z = word
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// 0..<bound; `bound` ≥ 1.
    public mutating func below(_ bound: Int) -> Int {
        Int(next().multipliedFullWidth(by: UInt64(bound)).high)
    }

    public mutating func within(_ range: ClosedRange<Int>) -> Int {
        range.lowerBound + below(range.upperBound - range.lowerBound + 1)
    }

    public mutating func oneIn(_ count: Int) -> Bool { below(count) == 0 }

    /// 0...maximum, where every order of magnitude is as likely as any other.
    public mutating func skewed(_ maximum: Int) -> Int {
        guard maximum > 0 else { return 0 }
        let bits = Int.bitWidth - maximum.leadingZeroBitCount
        return min(below(1 << below(bits + 1)), maximum)
    }

    public mutating func pick<Element>(_ choices: [Element]) -> Element { choices[below(choices.count)] }
}
