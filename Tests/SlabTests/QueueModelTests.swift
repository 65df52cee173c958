import Chance
import CSlab
import Glibc
import Testing

/// Random operations on a few queues over one small arena, beside plain arrays that say what must be in them.
struct QueueModelTests {
    @Test(arguments: ChanceSetting.seeds(12)) func queuesHoldWhatPlainArraysHold(seed: UInt64) throws {
        print("seed \(seed)")
        var model = try Model(seed: seed)
        for step in 0..<5_000 {
            model.step()
            try model.check(everything: step % 50 == 0)
        }
        // The arena was full now and then.
        if seed == ChanceSetting.fixed { #expect(model.refused > 100 && model.accepted > 1_000) }
        try model.end()
    }
}

private struct Model {
    static let starts: [UInt64] = [0, 1 << 32 - 9, 1 << 63 - 9, UInt64.max - 99, 1]

    let arena: Arena
    let queues: [Queue]
    var expected: [[UInt8]]
    var chance: Chance
    var touched: Set<Int> = []
    var refused = 0, accepted = 0

    init(seed: UInt64) throws {
        arena = try Arena()
        let arena = arena
        queues = Self.starts.map { Queue(arena, at: $0) }
        expected = queues.map { _ in [] }
        chance = Chance(seed: seed)
    }

    mutating func step() {
        touched = []
        switch chance.below(8) {
        case 0...2: appendCopy()
        case 3: appendBlock()
        case 4, 5: move()
        case 6: release()
        default: chance.oneIn(10) ? arena_trim(arena.pointer, chance.within(0...1 << 20)) : release()
        }
    }

    private mutating func someQueue() -> Int {
        let index = chance.below(queues.count)
        touched.insert(index)
        return index
    }

    private mutating func note(_ index: Int, _ bytes: [UInt8], _ appended: Bool) {
        if appended { expected[index] += bytes } else { refused += 1 }
        if appended { accepted += 1 }
    }

    private mutating func appendCopy() {
        let index = someQueue()
        let most = [1, 100, 300, 5_000, 20_000, 400_000][chance.oneIn(4) ? chance.below(6) : chance.below(4)]
        let bytes = chance.bytes(chance.within(0...most))
        note(index, bytes, queues[index].copy(bytes))
    }

    /// A block as a receive fills it: ranges in order, most to one queue, some bytes (headers) to nobody.
    private mutating func appendBlock() {
        let isSlab = chance.oneIn(2), blockBytes = isSlab ? slabBytes : pageBytes
        guard let block = isSlab ? arena.slab() : arena.page() else { return refused += 1 }
        let favourite = someQueue()
        var offset = 0
        for _ in 0..<chance.within(0...6) where offset < blockBytes {
            let bytes = chance.bytes(chance.within(0...min(blockBytes - offset, chance.oneIn(3) ? 100_000 : 900)))
            bytes.withUnsafeBytes { source in
                let range = UnsafeMutableRawBufferPointer(start: block + offset, count: source.count)
                range.copyMemory(from: source)
            }
            let index = chance.oneIn(4) ? someQueue() : favourite
            note(index, bytes, queues[index].refer(block + offset, bytes.count))
            offset += bytes.count
            if chance.oneIn(3) { offset = min(offset + 12, blockBytes) }
        }
        arena.release(block)
    }

    private mutating func move() {
        let from = someQueue(), to = someQueue()
        guard from != to else { return }
        let count = chance.oneIn(3) ? expected[from].count : chance.within(0...expected[from].count)
        let copyBelow = [0, 1, 64, 512, 5_000, Int.max][chance.below(6)]
        // Only the ring of pieces could refuse, and it does not: a full arena stops no move.
        #expect(queues[from].move(count, to: queues[to], copyBelow: copyBelow))
        expected[to] += expected[from].prefix(count)
        expected[from].removeFirst(count)
    }

    private mutating func release() {
        let index = someQueue()
        let count = chance.oneIn(3) ? expected[index].count : chance.within(0...expected[index].count)
        queues[index].release(count)
        expected[index].removeFirst(count)
    }

    /// The touched queues bytewise from a random position on, or everything.
    mutating func check(everything: Bool) throws {
        try #require(arena.fault == nil)
        for index in everything ? Set(queues.indices) : touched {
            let queue = queues[index], wanted = expected[index]
            try #require(queue.fault == nil)
            try #require(queue.count == wanted.count)
            try #require(wanted.isEmpty == queue.ownsNothing)
            var offset = everything ? 0 : chance.within(0...wanted.count)
            let iovecs = 1 + chance.below(30), limit = 1 + chance.below(everything ? 300_000 : 30_000)
            repeat {
                var end = offset
                for range in queue.gather(offset, limit: limit, iovecs: iovecs) {
                    try #require(end + range.count <= wanted.count)
                    let difference = wanted.withUnsafeBytes { bytes in
                        memcmp(bytes.baseAddress! + end, range.baseAddress!, range.count)
                    }
                    try #require(difference == 0)
                    end += range.count
                }
                try #require(end - offset <= limit && (end > offset || end == wanted.count))
                offset = end
            } while everything && offset < wanted.count
        }
        if everything { try checkRooms() }
    }

    /// No byte of a room belongs to a piece or to another room, in whatever queue.
    private func checkRooms() throws {
        let pieces = queues.flatMap(\.pieces)
        var rooms: [UInt: UInt] = [:]  // Page to the room's first byte.
        for piece in pieces where piece.room > 0 {
            let first = UInt(bitPattern: piece.bytes) + UInt(piece.count)
            try #require(rooms.updateValue(first, forKey: first / UInt(pageBytes)) == nil)
        }
        for piece in pieces {
            let last = UInt(bitPattern: piece.bytes) + UInt(piece.count) - 1
            if let room = rooms[last / UInt(pageBytes)] { try #require(last < room) }
        }
    }

    mutating func end() throws {
        try check(everything: true)
        for queue in queues { queue.clear() }
        #expect(queues.allSatisfy { $0.ownsNothing })
        #expect(arena.used == 0)
        #expect(arena.fault == nil)
        while arena.committed > 0 {
            let before = arena.committed
            arena_trim(arena.pointer, 0)
            try #require(arena.committed < before)
        }
    }
}
