import CSystem

/// Random bits of the kernel that nobody can guess (getrandom(2)).
public struct Entropy: RandomNumberGenerator, Sendable {
    public init() {}

    public func next() -> UInt64 {
        var word: UInt64 = 0
        system_random(&word, MemoryLayout<UInt64>.size)
        return word
    }
}
