import CSlab
import Glibc
import Loop
import Testing
import Time
@testable import Relay

/// Frames that pipes keep: their bytes come back whole, in order, from whatever place on.
@Suite struct RetainedPipesTests {
    @Test(arguments: [0, 1, 99_999, 100_000, 100_001, 250_000])
    func theyComeIntoMemoryFromAnyPlaceOn(acknowledged: Int) throws {
        let arena = try #require(makeArena())
        defer { arena_destroy(arena) }
        let pipes = Pipes(descriptorLimit: 4096)
        var kept = RetainedPipes(), store = byte_queue(), expected: [UInt8] = []
        queue_init(&store, 0)
        for index in 0..<3 {
            let bytes = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ index &+ $0 >> 8) }
            let pipe = try #require(pipes.take(now: 0))
            guard case .success(bytes.count) = bytes.withUnsafeBytes({ pipe.write($0.baseAddress!, $0.count) }) else {
                Issue.record("a pipe that takes less")
                return
            }
            kept.append(pipe, bytes.count)
            #expect(queue_append_outside(&store, arena, UInt32(bytes.count)) == 0)
            expected += bytes
        }
        queue_release(&store, arena, UInt64(acknowledged))
        kept.release(store, to: pipes)
        #expect(kept.byteCount >= store.outside && kept.byteCount - store.outside < 100_000)
        #expect(kept.copyIntoMemory(&store, arena, pipes))
        #expect(kept.byteCount == 0 && store.outside == 0)
        var vectors = [iovec](repeating: iovec(), count: 16), gathered = 0
        let count = queue_gather(&store, store.head, .max, &vectors, 16, &gathered)
        let bytes = vectors.prefix(Int(count)).flatMap { Array(UnsafeRawBufferPointer(start: $0.iov_base, count: $0.iov_len)) }
        #expect(bytes == Array(expected.dropFirst(acknowledged)))
        queue_clear(&store, arena)
    }

    /// A user whose pipes the system limits: bytes are copied then.
    @Test func moreThanItsShareOfPipesThereIsNot() throws {
        let pipes = Pipes(descriptorLimit: 4096)
        var taken: [Pipe] = []
        while let pipe = pipes.take(now: 0) { taken.append(pipe) }
        #expect(taken.count == Policy.pipesMaximum)
        pipes.give(taken.removeLast(), left: 0)
        #expect(pipes.take(now: 0) != nil)
    }

    @Test(arguments: [(64, 2), (256, 8), (1024, 32), (1 << 20, 32)])
    func fewDescriptorsFewPipes(limit: Int, expected: Int) { #expect(Pipes(descriptorLimit: limit).maximum == expected) }

    /// A successor finds what the last commit says: whoever copies bytes out leaves them there, and a pipe that is given back is not used again
    /// before the next commit.
    @Test func aCommittedPipeStaysAsItIs() throws {
        var arena: OpaquePointer?
        #expect(arena_create_kept(&arena, 1 << 20) == 0)
        defer { arena_destroy(arena) }
        let pipes = Pipes(descriptorLimit: 4096, keptArena: arena)
        let pipe = try #require(pipes.take(now: 0))
        guard case .success(3) = pipe.write([1, 2, 3] as [UInt8], 3) else {
            Issue.record("a pipe that takes less")
            return
        }
        let source = try #require(pipes.source(of: pipe, 3))
        var bytes: [UInt8] = [0, 0, 0, 0]
        guard case .success(3) = source.read(&bytes, 4) else {
            Issue.record("not what lies in the pipe")
            return
        }
        #expect(bytes == [1, 2, 3, 0])
        pipes.giveRead(pipe, 3)
        #expect(Pipe.byteCount(at: pipe.output) == 3 && pipes.awaitsCommit)
        let other = try #require(pipes.take(now: 0))
        #expect(other.output != pipe.output)
        pipes.committed()
        #expect(Pipe.byteCount(at: pipe.output) == 0 && !pipes.awaitsCommit)
        #expect(pipes.take(now: 0)?.output == pipe.output)
    }

    /// What one user left in a pipe is never another's.
    @Test func aPipeThatComesBackIsEmpty() throws {
        let pipes = Pipes(descriptorLimit: 4096)
        let pipe = try #require(pipes.take(now: 0))
        guard case .success(3) = pipe.write([1, 2, 3], 3) else {
            Issue.record("a pipe that takes less")
            return
        }
        pipes.give(pipe, left: 3)
        let again = try #require(pipes.take(now: 0))
        var byte: UInt8 = 0
        guard case .failure(let error) = again.read(&byte, 1) else {
            Issue.record("a byte of another's")
            return
        }
        #expect(error.code == EAGAIN)
    }

    private func makeArena() -> OpaquePointer? {
        var arena: OpaquePointer?
        return arena_create(&arena, 8 << 20) == 0 ? arena : nil
    }
}
