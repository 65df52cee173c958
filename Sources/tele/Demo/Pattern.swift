/// The bytes of one direction of one stream: a function of seed and offset, so that both ends know them
/// without talking and a byte in the wrong place does not match.
struct Pattern: Sendable {
    let seed: UInt64

    /// Fills `bytes` with what stands at `offset` and after.
    func fill(_ bytes: UnsafeMutableRawBufferPointer, from offset: Int) {
        var position = 0
        while position < bytes.count {
            let place = offset + position
            let word = word(UInt64(place / 8))
            if place % 8 == 0, bytes.count - position >= 8 {
                bytes.storeBytes(of: word.littleEndian, toByteOffset: position, as: UInt64.self)
                position += 8
            } else {
                bytes[position] = UInt8(truncatingIfNeeded: word >> UInt64(place % 8 * 8))
                position += 1
            }
        }
    }

    func byte(at offset: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: word(UInt64(offset / 8)) >> UInt64(offset % 8 * 8))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014), whose n-th output needs none of the ones before.
    private func word(_ index: UInt64) -> UInt64 {
        var z = seed &+ (index &+ 1) &* 0x9e37_79b9_7f4a_7c15
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
