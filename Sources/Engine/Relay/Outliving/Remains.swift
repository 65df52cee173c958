import Control
import CSlab
import Glibc
import Loop
import State
import Tunnel
import Wire

/// What a process left that died: the state of its last commit, as an archive that `Inheritance` reads like that of an upgrade, and what its
/// operations came to since. Nothing that was left is believed: what does not fit is a `StateFault`.
package final class Remains {
    /// An operation that ended after the last commit.
    struct Lost {
        enum Kind { case accepted, received, sent }
        let kind: Kind
        /// Of the operation: what it was of.
        let token: Token
        /// The listener that accepted.
        let descriptor: Int32
        let result: Int32
        let bytes: [UInt8]
    }

    package private(set) var archive = StateArchive()
    /// Descriptors that the state names.
    package private(set) var descriptors: [Int32] = []
    /// Indices and generations of local sockets, in the order in which they are restored.
    private(set) var order: [Token] = []
    private(set) var lost: [Lost] = []
    /// What it was about to do.
    private(set) var stopping = Stopping.Phase.running
    /// The first digits of the identity of the session that is left out. Nil: none is.
    private(set) var givenUp: String?
    private var isClient = false
    private var userListeners: Set<Int32> = []
    /// Connections that were about to be closed.
    private var closing: [Int32] = []

    private struct Local {
        var index: UInt32 = 0, generation: UInt32 = 0
        var hasSession = false
        var (read, written): (UInt64, UInt64) = (0, 0)
        var descriptor: Int32 = -1
        var socket = UnsafeRawBufferPointer(start: nil, count: 0)
        var inbound = queue_words(), outbound = queue_words()
        /// Between the first `older` bytes of `outbound` and the rest.
        var pipes: [(output: Int32, byteCount: Int)] = []
        var older = 0
    }

    private struct Record {
        var id: UInt64 = 0
        var owner: UInt32 = 0
        var isOwned = false
        var words = UnsafeRawBufferPointer(start: nil, count: 0)
    }

    private struct SessionRecord {
        var identity = UnsafeRawBufferPointer(start: nil, count: 0)
        /// The high word of it.
        var name: UInt64 = 0
        var sent = UnsafeRawBufferPointer(start: nil, count: 0), received = UnsafeRawBufferPointer(start: nil, count: 0)
        var border: UInt64 = 0
        var store = queue_words()
        /// What lies outside of the store.
        var pipes: [(output: Int32, byteCount: Int)] = []
        var streams: [Record] = []
    }

    /// Reads `memory`, the mapping of the dead process's arena, which is not needed afterwards. Its descriptors are this process's.
    /// `suspect`: the session that was worked on, by the high word of its identity, 0: none. `isGivenUp`: whether it is left out (`Suspect`); its
    /// connections are reset.
    package init(_ memory: UnsafeRawBufferPointer, suspect: UInt64, isGivenUp: Bool) throws(StateFault) {
        var opened: OpaquePointer?
        guard remains_open(&opened, memory.baseAddress, memory.count) == 0, let remains = opened else { throw StateFault("it is not whole") }
        defer { remains_close(remains) }
        var parts: [Ledger.Kind: UnsafeRawBufferPointer] = [:]
        var (sessions, locals): ([UInt32: SessionRecord], [UInt32: Local]) = ([:], [:])
        var (streams, waiting): ([(session: UInt32, record: Record)], [Int32]) = ([], [])
        for record in 1..<max(1, remains_count(remains)) {
            var count = 0
            guard let start = remains_record(remains, record, &count) else { continue }
            var part = StateArchive(restoring: UnsafeRawBufferPointer(start: start, count: count))
            var tag: UInt64 = 0
            try part.number(&tag)
            guard let kind = Ledger.Kind(rawValue: tag) else { throw StateFault("a record of a kind that there is not") }
            switch kind {
            case .session:
                let (index, session) = try Remains.session(&part)
                guard sessions.updateValue(session, forKey: index) == nil else { throw StateFault("two sessions in one place") }
            case .stream: streams.append(try Remains.stream(&part))
            case .local:
                let local = try Remains.local(&part)
                guard locals.updateValue(local, forKey: local.index) == nil else { throw StateFault("two sockets in one place") }
            case .accepted:
                var (fd, listener): (Int32, Int32) = (-1, -1)
                try part.number(&fd, in: 3...Int32.max)
                try part.number(&listener, in: 3...Int32.max)
                waiting.append(fd)
                lost.append(Lost(kind: .accepted, token: Operation.accept.token(), descriptor: listener, result: fd, bytes: []))
            case .closing:
                var fd: Int32 = -1
                try part.number(&fd)
                closing.append(fd)
            case .stopping: try part.choice(&stopping)
            case .process, .telemetry, .names, .server, .places, .pipes: parts[kind] = UnsafeRawBufferPointer(start: start + 8, count: count - 8)
            }
        }
        let pipes = try LeftPipes(parts[.pipes], remains)
        if isGivenUp, let index = sessions.first(where: { $0.value.name == suspect })?.key {
            givenUp = String(suspect >> 40, radix: 16)
            sessions[index] = nil
            for stream in streams where stream.session == index && stream.record.isOwned { locals[stream.record.owner] = nil }
            streams.removeAll { $0.session == index }
        }
        for (index, stream) in streams {
            guard sessions[index] != nil else { throw StateFault("a stream without a session") }
            sessions[index]!.streams.append(stream)
        }
        descriptors = locals.values.map(\.descriptor).filter { $0 >= 0 }
        try saveProcess(parts)
        descriptors += waiting
        let sockets = locals
        _ = try archive.count(sessions.count, most: .max)
        for index in sessions.keys.sorted() { try save(sessions[index]!, &locals, pipes, remains) }
        let flushing = locals.values.sorted { $0.index < $1.index }
        _ = try archive.count(flushing.count, most: .max)
        for local in flushing {
            guard !local.hasSession else { throw StateFault("a socket whose stream there is not") }
            try save(local, pipes, remains)
        }
        try archive.mark(0x656e_6400)
        archive.seal()
        try readLost(remains, sockets)
        try readFilled(pipes)
    }

    /// Of the worker that died before this process. Nil: there was none, or it left nothing.
    static var ofThisProcess: Remains? {
        get throws(StateFault) {
            guard let keeper = Keeper.ofThisProcess, let descriptor = keeper.kept else { return nil }
            let count = lseek(descriptor, 0, SEEK_END)
            guard count > 0, let memory = mmap(nil, count, PROT_READ, MAP_SHARED, descriptor, 0), memory != MAP_FAILED else {
                throw StateFault("its memory is not there")
            }
            defer { munmap(memory, count) }
            let isGivenUp = isGivenUp(keeper)
            return try Remains(UnsafeRawBufferPointer(start: memory, count: count), suspect: keeper.attended, isGivenUp: isGivenUp)
        }
    }

    /// Whether the session that was worked on at the last death is left out.
    private static func isGivenUp(_ keeper: Keeper) -> Bool {
        let before = keeper.suspect
        var suspect = Suspect(session: before.session, diedAt: before.diedAt, isGivenUp: before.isGivenUp)
        defer { keeper.suspect = (suspect.session, suspect.diedAt, suspect.isGivenUp) }
        return suspect.blame(keeper.attended, diedAt: keeper.diedAt, hasCrashed: keeper.hasCrashed)
    }

    // MARK: Records

    private static func session(_ part: inout StateArchive) throws(StateFault) -> (UInt32, SessionRecord) {
        var (index, session): (UInt32, SessionRecord) = (0, SessionRecord())
        try part.number(&index)
        session.identity = try part.takeBytes(most: .max)
        var owner = StateArchive(restoring: session.identity)
        var streams = 0
        try owner.number(&streams)
        try owner.number(&session.name)
        session.sent = try part.takeBytes(most: .max)
        try part.number(&session.border)
        session.received = try part.takeBytes(most: .max)
        session.store = try part.takeWords()
        session.pipes = try part.takePipes()
        return (index, session)
    }

    private static func stream(_ part: inout StateArchive) throws(StateFault) -> (UInt32, Record) {
        var (session, stream): (UInt32, Record) = (0, Record())
        try part.number(&session)
        try part.number(&stream.owner)
        stream.isOwned = stream.owner != .max
        stream.words = try part.takeBytes(most: .max)
        var words = StateArchive(restoring: stream.words)
        try words.number(&stream.id)
        return (session, stream)
    }

    private static func local(_ part: inout StateArchive) throws(StateFault) -> Local {
        var local = Local()
        try part.number(&local.index)
        try part.number(&local.generation)
        try part.flag(&local.hasSession)
        try part.counter(&local.read)
        try part.counter(&local.written)
        local.socket = try part.takeBytes(most: .max)
        local.inbound = try part.takeWords()
        local.outbound = try part.takeWords()
        try part.number(&local.older, in: 0...Int.max)
        local.pipes = try part.takePipes()
        var socket = StateArchive(restoring: local.socket)
        try socket.number(&local.descriptor, in: -1...Int32.max)
        return local
    }

    // MARK: The archive

    private func saveProcess(_ parts: [Ledger.Kind: UnsafeRawBufferPointer]) throws(StateFault) {
        guard let head = parts[.process], let telemetry = parts[.telemetry], let names = parts[.names], let server = parts[.server],
            let places = parts[.places]
        else { throw StateFault("the process's own record is missing") }
        var (facts, listeners, none) = (Inheritance.Facts(), [Inheritance.Listener](), [Int32]())
        var part = StateArchive(restoring: head)
        try Inheritance.head(&part, &none, &facts, &listeners)
        descriptors += listeners.map(\.fd)
        isClient = facts.isClient
        userListeners = Set(listeners.filter { $0.kind == .users }.map(\.fd))
        try Inheritance.head(&archive, &descriptors, &facts, &listeners)
        for part in [telemetry, names, server, places] { archive.appendRest(part) }
    }

    private func save(_ session: SessionRecord, _ locals: inout [UInt32: Local], _ pipes: LeftPipes, _ remains: OpaquePointer) throws(StateFault) {
        archive.appendRest(session.identity)
        archive.appendRest(session.sent)
        let piped = session.pipes.reduce(0) { $0 + $1.byteCount }
        guard piped >= session.store.outside else { throw StateFault("bytes that are not there") }
        let outside = LeftPipes.Outside(pipes, session.pipes, skipped: piped - Int(session.store.outside))
        let store = try Remains.bytes(session.store, remains, outside)
        try StoredFrames(store, head: session.store.head, border: session.border, sent: session.sent, parity: isClient ? 0 : 1).save(&archive)
        archive.appendRest(session.received)
        let streams = session.streams.sorted { $0.id < $1.id }
        _ = try archive.count(streams.count, most: .max)
        for stream in streams { archive.appendRest(stream.words) }
        var head = session.store.head
        try archive.number(&head)
        store.withUnsafeBytes { archive.appendBytes($0) }
        for stream in streams where stream.isOwned {
            guard let local = locals.removeValue(forKey: stream.owner), local.hasSession else { throw StateFault("a stream whose socket there is not") }
            try save(local, pipes, remains)
        }
    }

    private func save(_ local: Local, _ pipes: LeftPipes, _ remains: OpaquePointer) throws(StateFault) {
        order.append(Token(kind: 0, index: local.index, generation: local.generation))
        archive.appendRest(local.socket)
        try Remains.bytes(local.inbound, remains).withUnsafeBytes { archive.appendBytes($0) }
        let outbound = try Remains.bytes(local.outbound, remains)
        guard !local.pipes.isEmpty else { return outbound.withUnsafeBytes { archive.appendBytes($0) } }
        let piped = try bytes(of: local, pipes)
        guard local.older <= outbound.count else { throw StateFault("bytes that are not there") }
        (outbound[..<local.older] + piped + outbound[local.older...]).withUnsafeBytes { archive.appendBytes($0) }
    }

    /// What lay in the socket's pipes at the last commit. What the socket has taken since is not there any more; zeros stand for it, and `lost` says
    /// how many they are.
    private func bytes(of local: Local, _ pipes: LeftPipes) throws(StateFault) -> [UInt8] {
        var (all, taken): ([UInt8], Int) = ([], 0)
        for pipe in local.pipes {
            let drained = try pipes.drained(pipe.output, pipe.byteCount)
            // In order: nothing leaves a pipe before all is gone that is older.
            guard drained == 0 || taken == all.count && local.older == 0 else { throw StateFault("bytes that left before older ones") }
            guard let rest = try pipes.bytes(in: pipe.output, pipe.byteCount - drained) else { throw StateFault("bytes that are not there") }
            taken += drained
            all += [UInt8](repeating: 0, count: drained) + rest
        }
        if taken > 0, let result = Int32(exactly: taken) {
            lost.append(
                Lost(
                    kind: .sent, token: Operation.userSend.token(local.index, local.generation), descriptor: local.descriptor, result: result, bytes: []))
        }
        return all
    }

    private static func bytes(_ queue: queue_words, _ remains: OpaquePointer, _ outside: LeftPipes.Outside? = nil) throws(StateFault) -> [UInt8] {
        guard let count = Int(exactly: queue.tail - queue.head), count <= remains_bytes(remains) else { throw StateFault("more bytes than there can be") }
        var failed: Int32 = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { memory, initialized in
            var queue = queue
            failed = remains_copy_queue(
                remains, &queue, memory.baseAddress,
                { outside, memory, count in
                    guard let outside else { return false }
                    return Unmanaged<LeftPipes.Outside>.fromOpaque(outside).takeUnretainedValue().fill(
                        UnsafeMutableRawBufferPointer(start: memory, count: count))
                }, outside.map { Unmanaged.passUnretained($0).toOpaque() })
            initialized = failed == 0 ? count : 0
        }
        guard failed == 0 else { throw StateFault("bytes that are not there") }
        return bytes
    }

    // MARK: What ended since

    private func readLost(_ remains: OpaquePointer, _ sockets: [UInt32: Local]) throws(StateFault) {
        var count = 0
        #if CANARIES
        if Canary.selected == .forgetsEnded { return }
        #endif
        guard let mark = remains_record(remains, 0, &count), count == 8 else { throw StateFault("nothing was ever committed") }
        let trace = remains_root(remains, Ledger.traceRoot)
        let ended: [Ended]
        do throws(SystemError) {
            ended = try Ended.all(trace: trace, mark: UInt32(truncatingIfNeeded: mark.loadUnaligned(as: UInt64.self))) {
                remains_find(remains, $0, $1)
            }
        } catch { throw StateFault("what its operations came to is not known (\(error))") }
        var (read, written): ([Int32: UInt64], [Int32: UInt64]) = ([:], [:])
        for operation in ended {
            let local = sockets[operation.token.index].flatMap { $0.generation == operation.token.generation ? $0 : nil }
            let outcome =
                operation.result ?? (operation.kind == .accept ? accepted(from: operation.descriptor) : nil)
                ?? Remains.outcome(of: operation, local, read: read[operation.descriptor] ?? 0, written: written[operation.descriptor] ?? 0)
            guard let outcome else { continue }
            let moved = UInt64(max(0, outcome))
            if operation.kind == .receive { read[operation.descriptor, default: 0] += moved }
            if operation.kind == .send { written[operation.descriptor, default: 0] += moved }
            try add(operation, outcome, remains)
        }
    }

    /// Bytes of local sockets that were on their way into the carrier, and had no place in the sequence.
    private func readFilled(_ pipes: LeftPipes) throws(StateFault) {
        for move in pipes.moves where move.kind == .filled {
            let count = try pipes.filled(move)
            // Where some were lost on their way into memory, nobody knows which are the next.
            let bytes = try pipes.bytes(in: move.pipe, count)
            for start in stride(from: 0, to: max(count, 1), by: Policy.copyAtOnce) where count > 0 {
                let part = bytes.map { Array($0[start..<min(start + Policy.copyAtOnce, count)]) }
                let result = part.map { Int32($0.count) } ?? -ECONNRESET
                lost.append(Lost(kind: .received, token: move.token, descriptor: -1, result: result, bytes: part ?? []))
            }
        }
    }

    /// What a call came to in which the process died, by the kernel's counters: `read` and `written` bytes came and went between the last
    /// commit and it. Nil: it is as if it had not been made. Where the kernel does not say (a unix socket, a connection that has ended), the
    /// connection is reset: nobody knows which bytes are the next.
    private static func outcome(of operation: Ended, _ local: Local?, read: UInt64, written: UInt64) -> Int32? {
        guard let local, local.descriptor == operation.descriptor, operation.kind == .receive || operation.kind == .send else { return nil }
        #if CANARIES
        let isOrigin = Canary.selected != .countsNoSYN && (try? mapping(of: local))?.isOrigin ?? false
        #else
        let isOrigin = (try? mapping(of: local))?.isOrigin ?? false
        #endif
        guard let counts = TransferCounts(operation.descriptor, isDialled: isOrigin) else { return -ECONNRESET }
        #if CANARIES
        let read = Canary.selected == .countsNoFIN && counts.read == local.read + read && counts.read > 0 ? read &- 1 : read
        #endif
        let (now, before) = operation.kind == .receive ? (counts.read, local.read &+ read) : (counts.written, local.written + written)
        guard now >= before, let moved = Int32(exactly: now - before) else { return -ECONNRESET }
        return moved == 0 ? nil : moved
    }

    /// A connection that a process accepted which died in the call: the only descriptor that nobody knows and that came from there. (Who
    /// waits for an answer to its request is not known either; where such are, nobody can tell.)
    private func accepted(from listener: Int32) -> Int32? {
        // Carriers come back by themselves.
        guard userListeners.contains(listener), let own = Socket.localAddress(listener) else { return nil }
        let unknown = Keeper.inherited.subtracting(descriptors).subtracting(closing).filter { fd in
            guard let address = Socket.localAddress(fd), Socket.peerAddress(fd) != nil else { return false }
            return address.family == own.family && address.port == own.port && (own.path == nil || own.path == address.path)
        }
        return unknown.count == 1 ? unknown.first : nil
    }

    private static func mapping(of local: Local) throws(StateFault) -> MappingPlace {
        var socket = StateArchive(restoring: local.socket)
        var (fd, place): (Int32, UInt16) = (-1, 0)
        try socket.number(&fd)
        try socket.number(&place)
        return MappingPlace(rawValue: place)
    }

    private func add(_ ended: Ended, _ result: Int32, _ remains: OpaquePointer) throws(StateFault) {
        switch (ended.kind, Operation(rawValue: ended.token.kind)) {
        case (.accept, .accept) where result >= 0:
            descriptors.append(result)
            lost.append(Lost(kind: .accepted, token: ended.token, descriptor: ended.descriptor, result: result, bytes: []))
        case (.receive, .userReceive), (.receive, .userReceivePooled):
            guard result != 0 else { return }  // The next receive says so, too.
            var bytes: [UInt8] = []
            if result > 0 {
                guard let start = remains_find(remains, ended.address, Int(result)) else { throw StateFault("bytes that are not there") }
                bytes = Array(UnsafeRawBufferPointer(start: start, count: Int(result)))
            }
            lost.append(Lost(kind: .received, token: ended.token, descriptor: ended.descriptor, result: result, bytes: bytes))
        case (.send, .userSend):
            lost.append(Lost(kind: .sent, token: ended.token, descriptor: ended.descriptor, result: result, bytes: []))
        default:
            return
        }
    }
}
