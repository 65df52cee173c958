import Chance
import Glibc

/// What every payload byte must be: a function of stream, direction and offset. A misplaced byte names itself.
struct Pattern {
    static let blockByteCount = 4096
    private static let tableMask: UInt64 = 0xffff
    /// 64 KiB of chance, and one block more so that no run wraps. Written once, read only afterwards.
    nonisolated(unsafe) private static let table: UnsafeMutableRawPointer = {
        let count = Int(tableMask) + 1 + blockByteCount
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 16)
        var chance = Chance(seed: 0x7e1e)
        for index in 0..<count { memory.storeBytes(of: UInt8(truncatingIfNeeded: chance.next()), toByteOffset: index, as: UInt8.self) }
        return memory
    }()

    /// One half of one stream: `key` is unique for (run, stream, direction).
    let key: UInt64

    init(stream: Int, from side: Side) {
        key = Chance.mixed(UInt64(stream) << 1 | UInt64(side.rawValue))
    }

    private func bytes(at offset: UInt64) -> (UnsafeRawPointer, Int) {
        let block = offset / UInt64(Pattern.blockByteCount), inside = offset % UInt64(Pattern.blockByteCount)
        let place = (Chance.mixed(key &+ block) & Pattern.tableMask) + inside
        return (UnsafeRawPointer(Pattern.table + Int(place)), Pattern.blockByteCount - Int(inside))
    }

    func fill(_ bytes: UnsafeMutableRawBufferPointer, from offset: UInt64) {
        var done = 0
        while done < bytes.count {
            let (source, run) = self.bytes(at: offset + UInt64(done))
            let count = min(run, bytes.count - done)
            bytes.baseAddress!.advanced(by: done).copyMemory(from: source, byteCount: count)
            done += count
        }
    }

    /// So many bytes are enough to find their place.
    static let tellingByteCount = 8

    /// The first offset below `end` at which these bytes stand. Nil: at none.
    func place(of bytes: UnsafeRawBufferPointer, below end: Int) -> Int? {
        (0..<max(end, 0)).first { firstWrong(bytes, at: UInt64($0)) == nil }
    }

    /// The index of the first byte that is not what stands at `offset` of this half, or nil.
    func firstWrong(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) -> Int? {
        var done = 0
        while done < bytes.count {
            let (expected, run) = self.bytes(at: offset + UInt64(done))
            let count = min(run, bytes.count - done)
            let found = bytes.baseAddress!.advanced(by: done)
            if memcmp(found, expected, count) != 0 {
                for index in 0..<count
                where found.load(fromByteOffset: index, as: UInt8.self)
                    != expected.load(fromByteOffset: index, as: UInt8.self)
                { return done + index }
            }
            done += count
        }
        return nil
    }
}
