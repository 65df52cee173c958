import Glibc

/// Seeds for random tests: TELE_SEED alone if it is set, else fresh ones.
func seeds(_ count: Int) -> [UInt64] {
    if let given = getenv("TELE_SEED"), let seed = UInt64(String(cString: given)) { return [seed] }
    return (0..<count).map { _ in UInt64.random(in: 0...UInt64.max) }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and every seed is a good one.
struct Chance: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }

    mutating func below(_ limit: Int) -> Int { Int.random(in: 0..<limit, using: &self) }
    mutating func upTo(_ limit: Int) -> Int { Int.random(in: 0...limit, using: &self) }
    mutating func oneIn(_ count: Int) -> Bool { below(count) == 0 }

    mutating func bytes(_ count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: (count + 7) / 8 * 8) { memory, filled in
            let raw = UnsafeMutableRawBufferPointer(memory)
            for offset in stride(from: 0, to: count, by: 8) {
                raw.storeBytes(of: next(), toByteOffset: offset, as: UInt64.self)
            }
            filled = count
        }
    }
}
