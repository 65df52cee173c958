import CSlab
import Testing

struct QueueMoveTests {
    @Test func aWholePieceIsHandedOverWithItsReference() throws {
        let arena = try Arena(), from = Queue(arena), to = Queue(arena, at: 7)
        let slab = try arena.filledSlab()
        #expect(from.refer(slab + 100, 50_000))
        #expect(from.move(50_000, to: to, copyBelow: 512))
        #expect(arena.references(slab) == 2)  // Ours and the piece's, as before.
        #expect(to.gather()[0].baseAddress! == UnsafeRawPointer(slab + 100))
        #expect(from.ownsNothing && from.head == 50_000)
        #expect(to.head == 7 && to.tail == 50_007)
        arena.release(slab)
    }

    @Test func aPartOfAPieceTakesAReferenceOfItsOwnAndMergesLater() throws {
        let arena = try Arena(), from = Queue(arena), to = Queue(arena)
        let slab = try arena.filledSlab()
        #expect(from.refer(slab, slabBytes))
        #expect(from.move(1_000, to: to, copyBelow: 512))
        #expect(arena.references(slab) == 3)
        #expect(from.move(10, to: to, copyBelow: 512))  // Short, but it follows what is there.
        #expect(to.pieces.count == 1 && arena.references(slab) == 3 && arena.used == slabBytes)
        #expect(from.move(slabBytes - 1_010, to: to, copyBelow: 512))
        #expect(to.pieces.count == 1 && arena.references(slab) == 2)
        #expect(from.ownsNothing && from.fault == nil && to.fault == nil)
        arena.release(slab)
        #expect(to.gather()[0].baseAddress! == UnsafeRawPointer(slab))
    }

    @Test func shortPiecesAreCopiedDenselyAndLetTheirBlocksGo() throws {
        let arena = try Arena(), from = Queue(arena), to = Queue(arena)
        var expected: [UInt8] = []
        for salt in UInt8(0)..<3 {
            let slab = try arena.filledSlab(salt)
            #expect(from.refer(slab + 300, 200))
            expected += Array(UnsafeRawBufferPointer(start: slab + 300, count: 200))
            arena.release(slab)
        }
        #expect(arena.used == 3 * slabBytes)
        #expect(from.move(600, to: to, copyBelow: 201))
        #expect(arena.used == pageBytes && to.pieces.count == 1)
        #expect(to.contents == expected && to.fault == nil)
    }

    @Test func roomGoesWithTheWholePieceOnly() throws {
        let arena = try Arena(), first = Queue(arena), second = Queue(arena)
        #expect(first.copy(pattern(1_000)))

        // A part leaves the room where the end of the piece is.
        #expect(first.move(600, to: second, copyBelow: 0))
        #expect(second.pieces[0].room == 0 && first.pieces[0].room == UInt32(pageBytes) - 1_000)
        #expect(second.copy([1, 2, 3]) && first.copy([4, 5, 6]))
        #expect(arena.used == 2 * pageBytes)
        #expect(first.contents == pattern(400, from: 600) + [4, 5, 6])
        #expect(second.contents == pattern(600) + [1, 2, 3])

        // The whole takes it along, and nobody is left who could fill it twice.
        let third = Queue(arena)
        #expect(first.move(403, to: third, copyBelow: 0))
        #expect(third.pieces[0].room == UInt32(pageBytes) - 1_003)
        #expect(third.copy([7]) && first.copy([8]))
        #expect(third.contents == pattern(400, from: 600) + [4, 5, 6, 7])
        #expect(first.contents == [8])
        #expect(second.contents == pattern(600) + [1, 2, 3])
        #expect([first.fault, second.fault, third.fault] == [nil, nil, nil])
    }

    @Test func partsOfAPageMeetAgainWithTheirRoom() throws {
        let arena = try Arena(), from = Queue(arena), to = Queue(arena)
        #expect(from.copy(pattern(100)))
        #expect(from.move(40, to: to, copyBelow: 0) && from.move(60, to: to, copyBelow: 1_000))
        #expect(to.pieces.count == 1 && to.pieces[0].room == UInt32(pageBytes) - 100)
        #expect(to.copy(pattern(100, from: 100)) && arena.used == pageBytes)
        #expect(to.contents == pattern(200))
        to.clear()
        #expect(arena.used == 0)
    }

    @Test func aFullArenaStopsNoMove() throws {
        let arena = try Arena(), from = Queue(arena), to = Queue(arena)
        let slab = try arena.filledSlab()
        for index in 0..<100 { #expect(from.refer(slab + index * 64, 32)) }
        let expected = from.contents
        arena.release(slab)
        let pages = arena.exhaust()
        #expect(from.move(3_200, to: to, copyBelow: 512))
        #expect(to.contents == expected && to.pieces.count == 100)  // Not copied: there was no page.
        #expect(arena.references(slab) == 100)
        for page in pages { arena.release(page) }
        #expect(to.move(3_200, to: from, copyBelow: 512))
        #expect(from.contents == expected && from.pieces.count == 1 && arena.used == pageBytes)
    }

    @Test func nothingMovesWhenNothingIsAsked() throws {
        let arena = try Arena(), from = Queue(arena), to = Queue(arena)
        #expect(from.move(0, to: to, copyBelow: 512))
        #expect(from.copy([1]) && from.move(0, to: to, copyBelow: 512))
        #expect(to.ownsNothing && from.count == 1)
    }
}
