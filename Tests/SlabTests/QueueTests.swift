import CSlab
import Testing

struct QueueTests {
    @Test func anEmptyQueueOwnsNothing() throws {
        let arena = try Arena(), queue = Queue(arena, at: 42)
        #expect(queue.ownsNothing && queue.head == 42 && queue.tail == 42)
        #expect(queue.copy([]) && queue.ownsNothing)
        for _ in 0..<3 {
            #expect(queue.copy(pattern(10_000)))
            #expect(!queue.ownsNothing && queue.fault == nil)
            queue.release(queue.count)
            #expect(queue.ownsNothing && arena.used == 0 && queue.fault == nil)
        }
        #expect(queue.copy(pattern(5)))
        queue.clear()
        #expect(queue.ownsNothing && arena.used == 0 && queue.head == 30_047 && queue.tail == 30_047)
    }

    @Test func smallCopiesLieDenselyInPages() throws {
        let arena = try Arena(), queue = Queue(arena)
        var expected: [UInt8] = []
        for index in 0..<1_000 {
            let bytes = pattern(1 + index % 17, from: index)
            #expect(queue.copy(bytes))
            expected += bytes
        }
        #expect(queue.contents == expected)
        #expect(queue.pieces.count == (expected.count + pageBytes - 1) / pageBytes)
        #expect(arena.used == queue.pieces.count * pageBytes)
        #expect(queue.fault == nil)
    }

    @Test(arguments: [(65_535, 16, 0), (65_536, 0, 1), (262_144, 0, 1), (262_145, 1, 1), (400_000, 0, 2)])
    func copiesTakePagesOrSlabsByTheirSize(count: Int, pages: Int, slabs: Int) throws {
        let arena = try Arena(), queue = Queue(arena)
        #expect(queue.copy(pattern(count)))
        #expect(arena.used == pages * pageBytes + slabs * slabBytes)
        #expect(queue.contents == pattern(count))
        #expect(queue.fault == nil)
    }

    @Test func rangesThatFollowEachOtherInABlockBecomeOnePiece() throws {
        let arena = try Arena(), queue = Queue(arena)
        let slab = try arena.filledSlab()
        for offset in stride(from: 0, to: slabBytes, by: 8_192) { #expect(queue.refer(slab + offset, 8_192)) }
        #expect(queue.pieces.count == 1)
        #expect(arena.references(slab) == 2)
        #expect(queue.refer(slab, 1))  // It does not follow.
        #expect(queue.refer(slab + 2, 1))
        #expect(queue.pieces.count == 3)
        #expect(arena.references(slab) == 4)
        arena.release(slab)
        #expect(queue.fault == nil)
        queue.clear()
        #expect(arena.used == 0)
    }

    @Test func neighbouringBlocksStayTwoPieces() throws {
        let arena = try Arena(), queue = Queue(arena)
        let slabs = [try arena.filledSlab(1), try arena.filledSlab(2)].sorted()
        let pages = [try #require(arena.page()), try #require(arena.page())].sorted()
        #expect(slabs[1] - slabs[0] == slabBytes && pages[1] - pages[0] == pageBytes)
        for slab in slabs { #expect(queue.refer(slab, slabBytes)) }
        for page in pages { #expect(queue.refer(page, pageBytes)) }
        #expect(queue.pieces.count == 4)
        for block in slabs + pages { arena.release(block) }
        #expect(queue.fault == nil)
        queue.release(slabBytes + 1)  // The first slab goes, the second stays.
        #expect(arena.used == slabBytes + 2 * pageBytes)
    }

    @Test func gatherKeepsItsLimits() throws {
        let arena = try Arena(), queue = Queue(arena)
        let bytes = pattern(50_000)
        #expect(queue.copy(bytes))  // 13 pages.
        #expect(queue.gather().count == 13)
        #expect(queue.gather(0, limit: 0).isEmpty)
        #expect(queue.gather(50_000).isEmpty)
        #expect(queue.gather(0, limit: 1).map(\.count) == [1])
        #expect(queue.gather(4_095, limit: 4_098).map(\.count) == [1, 4_096, 1])
        #expect(queue.gather(4_096, iovecs: 2).map(\.count) == [4_096, 4_096])
        #expect(queue.gather(100, iovecs: 0).isEmpty)
        for offset in stride(from: 0, to: 50_000, by: 997) {
            let gathered = queue.gather(offset, limit: 10_000).flatMap { Array($0) }
            #expect(gathered == Array(bytes[offset..<min(offset + 10_000, 50_000)]))
        }
    }

    @Test(arguments: [UInt64(1) << 32 - 9, UInt64(1) << 63 - 9, UInt64.max - 8])
    func positionsCrossEveryBorder(start: UInt64) throws {
        let arena = try Arena(), queue = Queue(arena, at: start)
        let bytes = pattern(20_000), slab = try arena.filledSlab()
        for index in 0..<20_000 { #expect(queue.copy([bytes[index]])) }
        #expect(queue.refer(slab, 1_000))
        arena.release(slab)
        #expect(queue.tail == start &+ 21_000 && queue.count == 21_000 && queue.fault == nil)
        for offset in [0, 1, 8, 9, 10, 4_095, 4_096, 19_999] {
            #expect(queue.gather(offset, limit: 1).map { $0[0] } == [bytes[offset]])
        }
        queue.release(10)
        #expect(queue.head == start &+ 10 && queue.count == 20_990 && queue.fault == nil)
        #expect(queue.contents.prefix(19_990) == bytes[10...])
        let other = Queue(arena, at: start)
        #expect(queue.move(15_000, to: other, copyBelow: 512))
        #expect(other.tail == start &+ 15_000 && other.fault == nil && queue.fault == nil)
        #expect(other.contents == Array(bytes[10..<15_010]))
        queue.clear()
        #expect(queue.head == start &+ 21_000)
    }

    @Test func aLongQueueGrowsAndACalmOneShrinks() throws {
        let arena = try Arena(), queue = Queue(arena)
        let slab = try arena.filledSlab(), count = 5_000
        for index in 0..<count { #expect(queue.refer(slab + index * 2, 1)) }
        #expect(queue.pieces.count == count && queue.queue.capacity == 8_192)
        #expect(arena.references(slab) == UInt32(count) + 1)
        for index in 0..<count - 1 {
            #expect(queue.gather(0, limit: 1)[0].baseAddress! == UnsafeRawPointer(slab + index * 2))
            queue.release(1)
        }
        #expect(queue.queue.capacity <= 64)
        queue.release(1)
        #expect(queue.ownsNothing && arena.references(slab) == 1)
        arena.release(slab)
    }

    @Test func aCopyThatDoesNotFitChangesNothing() throws {
        let arena = try Arena(), queue = Queue(arena)
        #expect(queue.copy(pattern(4_000)))
        var pages = arena.exhaust()
        arena.release(pages.removeLast())  // One page is left, and 96 bytes of room.
        let used = arena.used
        #expect(!queue.copy(pattern(96 + pageBytes + 1)))
        #expect(!queue.copy(pattern(100_000)))
        #expect(queue.count == 4_000 && queue.contents == pattern(4_000) && arena.used == used)
        #expect(queue.copy(pattern(96 + pageBytes, from: 4_000)))
        #expect(queue.contents == pattern(4_096 + pageBytes) && queue.fault == nil)
        #expect(!queue.copy([1]))
        for page in pages { arena.release(page) }
        #expect(queue.copy([1]))
    }
}
