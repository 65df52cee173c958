import Chance
import CSlab
import Glibc
import Testing

/// Pieces that lie outside, and their way in.
struct OutsideTests {
    @Test func theyAreCountedAndReleasedLikeOthers() throws {
        let arena = try Arena(), queue = Queue(arena, at: 7)
        #expect(queue.copy([1, 2, 3]))
        #expect(queue.keepOutside(1000) && queue.keepOutside(500))
        #expect(queue.count == 1503 && queue.queue.outside == 1500 && queue.fault == nil)
        queue.release(103)
        #expect(queue.queue.outside == 1400 && queue.fault == nil)
        queue.release(900)
        #expect(queue.queue.outside == 500 && queue.count == 500 && queue.fault == nil)
        queue.clear()
        #expect(queue.queue.outside == 0 && queue.ownsNothing && arena.used == 0)
    }

    @Test func whatComesInIsWholeAndDense() throws {
        let arena = try Arena(bytes: 8 << 20), queue = Queue(arena)
        var expected: [UInt8] = [], outside: [UInt8] = []
        for (index, count) in [5, 200_000, 70_000, 1, 600_000, 262_144].enumerated() {
            let header = pattern(3, from: index), bytes = pattern(count, from: 1000 * index)
            #expect(queue.copy(header) && queue.keepOutside(count))
            expected += header + bytes
            outside += bytes
        }
        // Part of the oldest is gone already.
        queue.release(5)
        expected.removeFirst(5)
        outside.removeFirst(2)
        let before = arena.used
        #expect(queue.bringIn(&outside) == 0)
        #expect(outside.isEmpty && queue.queue.outside == 0 && queue.fault == nil && arena.fault == nil)
        #expect(queue.contents == expected)
        #expect(arena.used - before == 5 * slabBytes, "bytes of several pieces share slabs")
        #expect(queue.bringIn(&outside) == 0, "nothing lies outside any more")
        queue.clear()
        #expect(arena.used == 0)
    }

    @Test func withoutMemoryNothingHappens() throws {
        let arena = try Arena(), queue = Queue(arena)
        #expect(queue.keepOutside(900_000))
        let pages = arena.exhaust()
        var outside = pattern(900_000)
        #expect(queue.bringIn(&outside) == -ENOMEM)
        #expect(outside.count == 900_000 && queue.queue.outside == 900_000 && queue.fault == nil)
        for page in pages { arena.release(page) }
        #expect(queue.bringIn(&outside) == 0)
        #expect(queue.contents == pattern(900_000))
    }

    /// Random appends, releases and homecomings beside a plain array.
    @Test(arguments: ChanceSetting.seeds(8)) func theyHoldWhatAPlainArrayHolds(seed: UInt64) throws {
        print("seed \(seed)")
        var chance = Chance(seed: seed)
        let arena = try Arena(bytes: 64 << 20), queue = Queue(arena, at: UInt64.max - 1000)
        var expected: [UInt8] = [], outside: [UInt8] = [], isOutside: [Bool] = []
        for _ in 0..<400 {
            switch chance.below(4) {
            case 0:
                let bytes = chance.bytes(1 + chance.within(0...3000))
                #expect(queue.copy(bytes))
                expected += bytes
                isOutside += bytes.map { _ in false }
            case 1:
                let bytes = chance.bytes(1 + chance.within(0...(chance.oneIn(4) ? 300_000 : 5000)))
                #expect(queue.keepOutside(bytes.count))
                expected += bytes
                outside += bytes
                isOutside += bytes.map { _ in true }
            case 2:
                let count = chance.within(0...expected.count)
                queue.release(count)
                expected.removeFirst(count)
                outside.removeFirst(isOutside.prefix(count).count { $0 })
                isOutside.removeFirst(count)
            default:
                guard chance.oneIn(3) else { break }
                #expect(queue.bringIn(&outside) == 0 && outside.isEmpty)
                isOutside = isOutside.map { _ in false }
                try #require(queue.contents == expected)
            }
            try #require(queue.fault == nil && queue.count == expected.count && queue.queue.outside == outside.count)
        }
        #expect(queue.bringIn(&outside) == 0)
        #expect(queue.contents == expected && arena.fault == nil)
    }

    @Test func gatheringThemTraps() async throws {
        let result = await #expect(processExitsWith: .signal(SIGABRT), observing: [\.standardErrorContent]) {
            let arena = try Arena(), queue = Queue(arena)
            #expect(queue.copy([1]) && queue.keepOutside(10))
            _ = queue.gather()
        }
        try expectTrap("bytes were gathered that lie outside", result)
    }
}

extension Queue {
    func keepOutside(_ count: Int) -> Bool { queue_append_outside(&queue, arena.pointer, UInt32(count)) == 0 }

    /// Takes the bytes from the front of `outside`.
    func bringIn(_ outside: inout [UInt8]) -> Int32 {
        var rest = outside[...]
        defer { outside = Array(rest) }
        return withUnsafeMutablePointer(to: &rest) { rest in
            queue_bring_in(
                &queue, arena.pointer,
                { context, memory, count in
                    let rest = context!.assumingMemoryBound(to: ArraySlice<UInt8>.self)
                    rest.pointee.prefix(count).withUnsafeBytes { memory!.copyMemory(from: $0.baseAddress!, byteCount: count) }
                    rest.pointee.removeFirst(count)
                }, rest)
        }
    }
}
