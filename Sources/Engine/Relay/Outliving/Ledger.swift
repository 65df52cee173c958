import Control
import CSlab
import Glibc
import Loop
import State
import Time
import Tunnel

/// Records of all that a successor needs when this process dies at any instruction (docs/internals/outliving.md): one for each session,
/// stream and local socket, and a few of the process. They change together, when an iteration has changed what it changes and before any
/// operation of it begins (`commit`), so a record never says less than the world has seen.
///
/// A session, stream or socket is noted where it is reached to be changed (`Session.endpoint`, `LocalTable`, `StreamTable`), so that no change
/// can be forgotten.
final class Ledger {
    /// What a record is of: its first word.
    enum Kind: UInt64 { case process = 1, telemetry, names, server, places, session, stream, local, closing, accepted, stopping, pipes }

    unowned(unsafe) private let relay: RelayProcess
    private let arena: OpaquePointer
    private let loop: Loop
    private let pipes: Pipes
    private var archive = StateArchive()
    private var sessions: [Session] = []
    private var numbers: [Kind: UInt32] = [:]
    /// Listeners or mappings have changed.
    var isConfigurationTouched = true
    private var countedAt: UInt64 = 0
    private var hasFailed = false
    /// The process is dead, as far as a simulation is concerned.
    var isDead = false

    init(_ relay: RelayProcess) {
        self.relay = relay
        (arena, loop, pipes) = (relay.arena, relay.loop, relay.pipes)
        arena_set_root(arena, Ledger.traceRoot, loop.trace)
    }

    static let traceRoot: UInt32 = 0
    /// Where the entries of `PipeLog` lie, how many there ever were, and both ends of the pipe that bytes are copied out through.
    static let pipeLogRoot: UInt32 = 1
    static let pipeCountRoot: UInt32 = 2
    static let pipeScratchRoot: UInt32 = 3

    private let keeper = Keeper.ofThisProcess

    /// The process works on this session until it works on another one, or the iteration is over. The keeper knows of it: where a process dies
    /// that has not taken over yet, the next one reads what the one before it left.
    func attend(to session: Session?) { attend(to: session?.identity.high ?? 0) }

    private func attend(to word: UInt64) {
        guard !isDead else { return }
        keeper?.attended = word
        watchAttention?(word)
    }

    /// For simulations: told of each session that is worked on.
    var watchAttention: ((UInt64) -> Void)?

    func touch(_ session: Session) { sessions.append(session) }

    // MARK: The commit

    /// Whether the world would see, after this iteration, what a successor would not know: else it goes on from the last commit and from the
    /// completions since, and comes to the same.
    var isDue: Bool {
        guard !isDead else { return false }
        attend(to: 0)
        #if CANARIES
        if Canary.selected == .commitsLate { return isConfigurationTouched || isCountingDue || !relay.stopping.isRunning }
        #endif
        return loop.awaitsCommit || hasFailed || isConfigurationTouched || pipes.awaitsCommit || isCountingDue || relay.awaitsConfirmation
            || relay.stopping.phase != stoppingSaved || relay.delayedMoves?.isEmpty == false
    }

    /// All that this iteration changed, and those before it that were not due, holds from here on. Between this and the wait for completions
    /// nothing may change. `holds` is called before anything is done that a successor of the process before this one could not go on from.
    func commit(holds: () -> Void = {}) {
        guard !isDead else { return }
        attend(to: 0)
        guard !hasFailed else {
            holds()
            return goOn()
        }
        do throws(StateFault) {
            while let session = sessions.popLast() {
                session.isTouched = false
                if session.isEnded { drop(session) } else { try save(session) }
            }
            while let index = relay.locals.table.takeTouched() { try saveLocal(index) }
            while let record = relay.locals.table.takeRemoved() { record_drop(arena, record) }
            try saveProcess()
        } catch {
            // What cannot be saved cannot be restored: better nothing than a part.
            fail(error.reason)
            return holds()
        }
        #if CANARIES
        let mark = loop.mark &- (Canary.selected == .repeatsEnded ? 1 : 0)
        #else
        let mark = loop.mark
        #endif
        switch records_commit(arena, UInt64(mark)) {
        case 0: break
        case Int32(RECORDS_DIED): return isDead = true
        default:
            fail("there is no memory for it")
            return holds()
        }
        holds()
        letGo()
    }

    /// What waited for the commit is done.
    private func letGo() {
        loop.committed()
        pipes.committed()
        relay.confirmSignals()
    }

    /// Nothing is recorded any more; what waits for commits must not wait for ever.
    private func goOn() {
        sessions.removeAll(keepingCapacity: true)
        _ = records_commit(arena, 0)
        letGo()
    }

    private func fail(_ reason: String) {
        hasFailed = true
        records_give_up(arena)
        Keeper.ofThisProcess?.kept = nil
        relay.events.note(.keepingFailed(reason: reason))
        goOn()
    }

    /// Lets go of everything that refers to it.
    func dissolve() { sessions = [] }

    private func put(_ record: inout UInt32, _ kind: Kind, _ body: (inout StateArchive) throws(StateFault) -> Void) throws(StateFault) {
        if record == 0 { record = record_take(arena) }
        archive.restart()
        try archive.mark(kind.rawValue)
        try body(&archive)
        record_put(arena, record, archive.bytes.baseAddress, archive.bytes.count)
    }

    // MARK: The process

    private var stoppingSaved = Stopping.Phase.running
    private var pipeCountSaved: UInt64 = 0

    /// How far the log is committed.
    private func savePipes() throws(StateFault) {
        guard let log = pipes.log, log.count != pipeCountSaved else { return }
        pipeCountSaved = log.count
        try put(&numbers[.pipes, default: 0], .pipes) { (archive) throws(StateFault) in
            var count = log.count
            #if CANARIES
            if Canary.selected == .repeatsMoves { count = count > 0 ? count - 1 : 0 }
            #endif
            try archive.number(&count)
        }
    }

    private var isCountingDue: Bool { relay.now >= countedAt + Policy.recordedEvery.nanoseconds }

    private func saveProcess() throws(StateFault) {
        try savePipes()
        if relay.stopping.phase != stoppingSaved {
            stoppingSaved = relay.stopping.phase
            var phase = stoppingSaved
            try put(&numbers[.stopping, default: 0], .stopping) { (archive) throws(StateFault) in try archive.choice(&phase) }
        }
        guard isConfigurationTouched || isCountingDue else { return }
        countedAt = relay.now
        isConfigurationTouched = false
        for (kind, body) in relay.recordBodies { try put(&numbers[kind, default: 0], kind, body) }
    }

    // MARK: Accepted connections that nobody has yet

    private var accepted: [Int32: UInt32] = [:]

    func hold(accepted fd: Int32, from listener: Int32) {
        do throws(StateFault) {
            try put(&accepted[fd, default: 0], .accepted) { (archive) throws(StateFault) in
                var (fd, listener) = (fd, listener)
                try archive.number(&fd)
                try archive.number(&listener)
            }
        } catch { fail(error.reason) }
    }

    func release(accepted fd: Int32) { if let record = accepted.removeValue(forKey: fd) { record_drop(arena, record) } }

    // MARK: Sessions and streams

    private func save(_ session: Session) throws(StateFault) {
        let arena = arena
        try put(&session.record, .session) { (archive) throws(StateFault) in
            var index = session.index
            try archive.number(&index)
            try archive.section { (archive) throws(StateFault) in try self.saveOwner(session, &archive) }
            try archive.section { (archive) throws(StateFault) in
                try session.unnotedEndpoint { (endpoint) throws(StateFault) in try endpoint.saveSent(&archive) }
            }
            var border = session.endpoint.border(from: session.store.head)
            try archive.number(&border)
            try archive.section { (archive) throws(StateFault) in
                try session.unnotedEndpoint { (endpoint) throws(StateFault) in try endpoint.saveReceived(&archive) }
            }
            try archive.words(queue_describe(&session.store))
            try archive.pipes(session.kept.count) { (put) throws(StateFault) in try session.kept.forEach(put) }
        }
        try session.unnotedEndpoint { (endpoint) throws(StateFault) in
            try endpoint.takeChanges { (endpoint, slot, owner, record) throws(StateFault) in
                try self.put(&record, .stream) { (archive) throws(StateFault) in
                    var (index, owner) = (session.index, owner)
                    try archive.number(&index)
                    try archive.number(&owner)
                    try archive.section { (archive) throws(StateFault) in try endpoint.saveStream(slot, &archive) }
                }
            } drop: { record in
                record_drop(arena, record)
            }
        }
    }

    /// It seldom changes, and each commit of the session has it.
    private func saveOwner(_ session: Session, _ archive: inout StateArchive) throws(StateFault) {
        let (stamp, most) = (relay.host.stamp(of: session), session.endpoint.limits.streams)
        if let last = session.archivedOwner, last.stamp == stamp, last.streamMaximum == most {
            return last.bytes.withUnsafeBytes { archive.appendRest($0) }
        }
        let start = archive.byteCount
        try relay.archiveOwner(session, &archive)
        session.archivedOwner = ArchivedOwner(stamp: stamp, streamMaximum: most, bytes: Array(archive.bytes[start...]))
    }

    private func drop(_ session: Session) {
        session.unnotedEndpoint { endpoint in
            endpoint.takeChanges({ _, _, _, _ in }, drop: { record_drop(arena, $0) })
            endpoint.forEachRecord { record_drop(arena, $0) }
        }
        if session.record != 0 { record_drop(arena, session.record) }
        session.record = 0
    }

    // MARK: Local sockets

    private func saveLocal(_ index: UInt32) throws(StateFault) {
        let user = relay.locals.table.unnoted(index)
        guard user.pointee.isThere else { return }
        #if CANARIES
        if Canary.selected == .leavesOutChanges, user.pointee.record != 0, relay.generator.next() & 7 == 0 { return }
        #endif
        let relay = relay
        // One that closes has no stream, and its bytes are nobody's.
        guard user.pointee.life.phase != .closing else {
            return try put(&user.pointee.record, .closing) { (archive) throws(StateFault) in try archive.number(&user.pointee.fd) }
        }
        try put(&user.pointee.record, .local) { (archive) throws(StateFault) in
            var (index, generation, hasSession) = (index, user.pointee.generation, user.pointee.session != nil)
            try archive.number(&index)
            try archive.number(&generation)
            try archive.flag(&hasSession)
            try archive.number(&user.pointee.readCount)
            try archive.number(&user.pointee.writtenCount)
            try archive.section { (archive) throws(StateFault) in try relay.saveSocket(user, &archive) }
            try archive.words(queue_describe(&user.pointee.inbound))
            try archive.words(queue_describe(&user.pointee.outbound))
            let backlog = user.pointee.backlog
            var older = backlog?.olderByteCount ?? 0
            try archive.number(&older)
            try archive.pipes(backlog?.pipeCount ?? 0) { (put) throws(StateFault) in try backlog?.forEach(put) }
        }
    }
}

extension StateArchive {
    /// `count` pipes and how much lies in each.
    mutating func pipes(_ count: Int, _ each: ((Pipe, Int) throws(StateFault) -> Void) throws(StateFault) -> Void) throws(StateFault) {
        var count = count
        try number(&count)
        try each { (pipe, byteCount) throws(StateFault) in
            var (output, byteCount) = (pipe.output, byteCount)
            try self.number(&output)
            try self.number(&byteCount)
        }
    }

    mutating func takePipes() throws(StateFault) -> [(output: Int32, byteCount: Int)] {
        var (count, pipes) = (0, [(output: Int32, byteCount: Int)]())
        try number(&count, in: 0...Policy.pipesMaximum)
        for _ in 0..<count {
            var (output, byteCount): (Int32, Int) = (-1, 0)
            try number(&output, in: 3...Int32.max)
            try number(&byteCount, in: 0...(1 << 24))
            pipes.append((output, byteCount))
        }
        return pipes
    }

    mutating func words(_ words: queue_words) throws(StateFault) {
        var words = words
        try number(&words.pieces)
        try number(&words.head)
        try number(&words.tail)
        try number(&words.capacity)
        try number(&words.first)
        try number(&words.length)
        try number(&words.outside)
    }

    mutating func takeWords() throws(StateFault) -> queue_words {
        var words = queue_words()
        try number(&words.pieces)
        try number(&words.head)
        try number(&words.tail, in: words.head...UInt64.max)
        try number(&words.capacity)
        try number(&words.first)
        try number(&words.length)
        try number(&words.outside)
        return words
    }
}
