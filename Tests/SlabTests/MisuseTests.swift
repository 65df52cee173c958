import CSlab
import Glibc
import Testing

/// Our own bookkeeping gone wrong ends the process with a sentence, in every build. Each test is a process.
struct MisuseTests {
    @Test func releasingADeadSlabTraps() async throws {
        let result = await #expect(
            processExitsWith: .signal(SIGABRT), observing: [\.standardErrorContent]
        ) {
            let arena = try Arena(), slab = try #require(arena.slab())
            arena.release(slab)
            arena.release(slab)
        }
        try expectTrap("a block was released that nobody holds", result)
    }

    @Test func releasingADeadPageTraps() async throws {
        let result = await #expect(
            processExitsWith: .signal(SIGABRT), observing: [\.standardErrorContent]
        ) {
            let arena = try Arena(), page = try #require(arena.page()), other = try #require(arena.page())
            arena.release(page)
            #expect(arena.references(other) == 1)
            arena.release(page + 9)
        }
        try expectTrap("a block was released that nobody holds", result)
    }

    @Test func retainingADeadBlockTraps() async throws {
        let result = await #expect(
            processExitsWith: .signal(SIGABRT), observing: [\.standardErrorContent]
        ) {
            let arena = try Arena(), page = try #require(arena.page())
            arena.release(page)
            arena.retain(page)
        }
        try expectTrap("a reference was taken on a block that nobody holds", result)
    }

    @Test func aForeignPointerTraps() async throws {
        let result = await #expect(
            processExitsWith: .signal(SIGABRT), observing: [\.standardErrorContent]
        ) {
            let arena = try Arena(), stranger = [UInt8](repeating: 0, count: 64)
            #expect(arena.page() != nil)
            stranger.withUnsafeBytes { arena.release($0.baseAddress!) }
        }
        try expectTrap("a pointer that is not into a block of the arena", result)
    }

    @Test func aRangeBeyondItsBlockTraps() async throws {
        let result = await #expect(
            processExitsWith: .signal(SIGABRT), observing: [\.standardErrorContent]
        ) {
            let arena = try Arena(), page = try #require(arena.page()), queue = Queue(arena)
            #expect(queue.refer(page + 1, pageBytes - 1))
            _ = queue.refer(page + 1, pageBytes)
        }
        try expectTrap("a range that leaves its block", result)
    }

    @Test func releasingBeyondTheTailTraps() async throws {
        let result = await #expect(
            processExitsWith: .signal(SIGABRT), observing: [\.standardErrorContent]
        ) {
            let arena = try Arena(), queue = Queue(arena)
            #expect(queue.copy([1, 2, 3]))
            queue.release(4)
        }
        try expectTrap("bytes were released that the queue does not hold", result)
    }
}

/// The process ended with this sentence.
func expectTrap(_ sentence: String, _ result: ExitTest.Result?) throws {
    let text = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
    #expect(text.contains("tele: fatal: \(sentence)\n"))
}
