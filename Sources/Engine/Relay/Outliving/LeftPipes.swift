import CSlab
import Loop
import State
import Tunnel

/// What a process that died left in pipes. They are read without being changed: a process after this one may have to read them again.
struct LeftPipes {
    /// A move that its last commit says nothing of.
    struct Move {
        let kind: PipeLog.Kind
        /// Of the local socket.
        let token: Token
        let pipe: Int32
        /// Nil: it was begun, and perhaps made.
        let byteCount: Int?
    }

    /// Since the last commit, oldest first.
    private(set) var moves: [Move] = []
    private let scratch: Pipe?

    /// `record`: of kind `pipes`. Nil: nothing was committed of them.
    init(_ record: UnsafeRawBufferPointer?, _ remains: OpaquePointer) throws(StateFault) {
        let ends = remains_root(remains, Ledger.pipeScratchRoot)
        scratch = ends == 0 ? nil : Pipe(output: Int32(truncatingIfNeeded: ends), input: Int32(truncatingIfNeeded: ends >> 32))
        guard scratch != nil else { return }
        var committed: UInt64 = 0
        if let record {
            var part = StateArchive(restoring: record)
            try part.number(&committed)
        }
        try readMoves(from: committed, remains)
    }

    private mutating func readMoves(from committed: UInt64, _ remains: OpaquePointer) throws(StateFault) {
        #if CANARIES
        if Canary.selected == .forgetsMoves { return }
        #endif
        let count = remains_root(remains, Ledger.pipeCountRoot)
        let entryByteCount = PipeLog.entryWords * 8
        guard count >= committed, count - committed <= UInt64(PipeLog.entryCount),
            let log = remains_find(remains, remains_root(remains, Ledger.pipeLogRoot), PipeLog.entryCount * entryByteCount)
        else { throw StateFault("the log of its pipes is not there") }
        for number in committed..<count {
            let entry = log + Int(number % UInt64(PipeLog.entryCount)) * entryByteCount
            let words = (0..<PipeLog.entryWords).map { entry.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self) }
            guard let kind = PipeLog.Kind(rawValue: words[0]), let pipe = Int32(exactly: words[2]) else { throw StateFault("a move of no kind") }
            let byteCount = words[3] == PipeLog.unknown ? nil : Int(truncatingIfNeeded: words[3])
            guard byteCount.map({ 0...LeftPipes.byteCountMaximum ~= $0 }) ?? (number == count - 1) else { throw StateFault("a move that was none") }
            moves.append(Move(kind: kind, token: Token(rawValue: words[1]), pipe: pipe, byteCount: byteCount))
        }
    }

    private static let byteCountMaximum = 1 << 24

    /// How many bytes left this pipe since the last commit, which says that `byteCount` lie in it.
    func drained(_ pipe: Int32, _ byteCount: Int) throws(StateFault) -> Int {
        let mine = moves.filter { $0.kind == .drained && $0.pipe == pipe }
        let known = mine.reduce(0) { $0 + ($1.byteCount ?? 0) }
        var drained = known
        if mine.last.map({ $0.byteCount == nil }) ?? false {
            // The last thing that the process did.
            guard let left = Pipe.byteCount(at: pipe) else { throw StateFault("a pipe that is not there") }
            drained = byteCount - left
        }
        guard drained >= known, drained <= byteCount else { throw StateFault("a pipe that is not as it was left") }
        return drained
    }

    /// How many bytes a move brought into its pipe, which was empty.
    func filled(_ move: Move) throws(StateFault) -> Int {
        guard let count = move.byteCount ?? Pipe.byteCount(at: move.pipe) else { throw StateFault("a pipe that is not there") }
        return count
    }

    /// The first `count` bytes in the pipe that is read at this descriptor. Nil: there are not so many.
    func bytes(in pipe: Int32, _ count: Int) throws(StateFault) -> [UInt8]? {
        guard count > 0 else { return [] }
        guard let there = Pipe.byteCount(at: pipe), let scratch else { throw StateFault("a pipe that is not there") }
        guard there >= count else { return nil }
        try empty(scratch)
        guard case .success(count) = scratch.copy(from: pipe, count) else { throw StateFault("a pipe that cannot be read") }
        return try read(scratch, count)
    }

    /// Another process that died may have left something.
    private func empty(_ scratch: Pipe) throws(StateFault) {
        guard let count = Pipe.byteCount(at: scratch.output) else { throw StateFault("a pipe that is not there") }
        _ = try read(scratch, count)
    }

    private func read(_ pipe: Pipe, _ count: Int) throws(StateFault) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            guard case .success(let moved) = bytes.withUnsafeMutableBytes({ pipe.read($0.baseAddress! + filled, count - filled) }), moved > 0 else {
                throw StateFault("a pipe that cannot be read")
            }
            filled += moved
        }
        return bytes
    }

    /// Fills in what lies outside of a queue, oldest first: in `pipes`, whose first `skipped` bytes the queue does not know any more.
    final class Outside {
        private let pipes: LeftPipes
        private var waiting: ArraySlice<(output: Int32, byteCount: Int)>
        private var bytes: ArraySlice<UInt8> = []
        private var skipped: Int

        init(_ pipes: LeftPipes, _ waiting: [(output: Int32, byteCount: Int)], skipped: Int) {
            (self.pipes, self.waiting, self.skipped) = (pipes, waiting[...], skipped)
        }

        func fill(_ memory: UnsafeMutableRawBufferPointer) -> Bool {
            var filled = 0
            while filled < memory.count {
                if bytes.isEmpty {
                    guard let next = waiting.popFirst(), let all = try? pipes.bytes(in: next.output, next.byteCount), skipped <= all.count else { return false }
                    bytes = all.dropFirst(skipped)
                    skipped = 0
                    if bytes.isEmpty { continue }
                }
                let part = bytes.prefix(memory.count - filled)
                part.withUnsafeBytes { memory.baseAddress!.advanced(by: filled).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
                bytes = bytes.dropFirst(part.count)
                filled += part.count
            }
            return true
        }
    }
}
