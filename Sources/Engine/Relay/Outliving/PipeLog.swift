import CSlab
import Glibc
import Loop

/// What was moved between local sockets and pipes since the last commit, in memory that a successor can read: an entry before each call, its
/// result behind it. What was moved to carriers is in none: the peer asks for what it misses.
final class PipeLog {
    enum Kind: UInt64 {
        /// From the socket into an empty pipe.
        case filled = 1
        /// From the head of a pipe into the socket.
        case drained
    }

    /// Words of an entry: kind, token, pipe, result.
    static let entryWords = 4
    static let entryCount = 1024
    /// Of a call of which only its beginning is known.
    static let unknown = UInt64(bitPattern: .min)

    /// How many calls were ever begun.
    private(set) var count: UInt64 = 0
    private var committedCount: UInt64 = 0
    private let arena: OpaquePointer
    private let words: UnsafeMutablePointer<UInt64>
    /// The process is dead, as far as a simulation is concerned.
    var isDead = false

    /// `arena` is kept, and outlives this. Nil: it has no memory left.
    init?(_ arena: OpaquePointer) {
        guard let memory = arena_keep(arena, PipeLog.entryCount * PipeLog.entryWords * 8) else { return nil }
        self.arena = arena
        words = memory.bindMemory(to: UInt64.self, capacity: PipeLog.entryCount * PipeLog.entryWords)
        arena_set_root(arena, Ledger.pipeLogRoot, UInt64(UInt(bitPattern: memory)))
        arena_set_root(arena, Ledger.pipeCountRoot, 0)
    }

    /// What bytes are copied out through: a successor that is given no other pipe has this one.
    func name(scratch: Pipe) {
        guard !isDead else { return }
        arena_set_root(arena, Ledger.pipeScratchRoot, UInt64(scratch.output) | UInt64(scratch.input) << 32)
    }

    /// Calls were noted since the last commit.
    var hasNew: Bool { count != committedCount }

    /// One more call can be noted before the next commit.
    var hasRoom: Bool { count - committedCount < UInt64(PipeLog.entryCount) }

    /// All that is noted is committed.
    func committed() { committedCount = count }

    /// Calls, and notes it. `hasRoom`. `token` names the local socket.
    func note(_ kind: Kind, _ token: Token, _ pipe: Pipe, _ call: () -> Pipe.Moved) -> Pipe.Moved {
        precondition(hasRoom, "a call of which there is no note")
        guard !isDead else { return call() }
        let entry = words + Int(count % UInt64(PipeLog.entryCount)) * PipeLog.entryWords
        (entry[0], entry[1], entry[2], entry[3]) = (kind.rawValue, token.rawValue, UInt64(pipe.output), PipeLog.unknown)
        count += 1
        // A function of another language: what was stored before is in memory.
        arena_set_root(arena, Ledger.pipeCountRoot, count)
        let moved = call()
        guard !isDead else { return moved }
        switch moved {
        case .success(let count): entry[3] = UInt64(count)
        case .failure: entry[3] = 0
        }
        return moved
    }
}
