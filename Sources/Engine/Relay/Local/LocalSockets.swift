import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// All local sockets of the process: their beginning, their end, and what completes. The reader brings their bytes into the session, the
/// writer those of the peer into them.
final class LocalSockets {
    unowned(unsafe) private let relay: RelayProcess
    let reader: LocalReader
    let writer: LocalWriter
    let table: LocalTable
    private let receiveSplice: ReceiveSplice
    /// Sockets with an operation that the ring refused.
    private var refused: [UInt32] = []
    /// Local sockets that may be open at a time: the other descriptors are kept for carriers.
    let maximum: Int

    init(_ relay: RelayProcess, _ table: LocalTable, _ sendSplice: SendSplice, _ receiveSplice: ReceiveSplice) {
        (self.relay, self.table, self.receiveSplice) = (relay, table, receiveSplice)
        let descriptorLimit = relay.descriptorLimit
        let reserved = min(max(Policy.reservedDescriptors.lowerBound, descriptorLimit / 4), Policy.reservedDescriptors.upperBound)
        maximum = max(
            Policy.usersMinimum,
            descriptorLimit - (Descriptors.count() - relay.inheritedCount) / relay.configuration.threads - reserved - 2 * relay.pipes.maximum)
        reader = LocalReader(relay, table, sendSplice)
        writer = LocalWriter(relay, table, receiveSplice)
    }

    var count: Int { table.count }
    /// Unsent bytes that the kernel holds for one local socket; the more sockets, the less. Unbounded it holds megabytes for each that
    /// is not read, and thousands of those use up the machine's TCP memory (net.ipv4.tcp_mem), carriers included.
    var unsentMaximum: Int? {
        let part = Policy.unsentByteCount / max(1, table.count)
        return part >= Policy.unsentMaximum ? nil : max(part, Policy.unsentMinimum)
    }
    var hasRoom: Bool { table.count < maximum }

    subscript(index: UInt32) -> UnsafeMutablePointer<LocalSocket> { table[index] }

    func find(_ token: Token) -> UnsafeMutablePointer<LocalSocket>? { table.find(token.index, token.generation) }

    func token(_ index: UInt32, _ operation: Operation) -> Token { table.token(index, operation) }

    // MARK: Beginnings

    /// A socket with a stream of `session`. From the start its end is a reset, also that of the whole process: only an end
    /// in order lifts that. Without a descriptor it waits for `connected`.
    func add(fd: Int32?, _ session: Session, _ slot: StreamSlot, mapping: MappingPlace) -> UInt32 {
        if let fd { Socket.abortOnClose(fd) }
        let index = table.insert(fd: fd ?? -1, isConnecting: fd == nil)
        table[index].pointee.mapping = mapping
        table[index].pointee.session = .passUnretained(session)
        session.userCount += 1
        table.traffic.opened(mapping)
        table[index].pointee.slot = slot
        relay.events.note(.streamOpened)
        if fd != nil { beginCounts(index) }
        return index
    }

    /// The connection of a user who was accepted at a listener, with a new stream of the session, which `canOpen`. `first`: bytes that go before
    /// the user's own. Nil: there is no memory for them, and the connection is reset.
    func open(fd: Int32, _ session: Session, target: UInt64, _ place: MappingPlace, first: [UInt8] = []) -> UInt32? {
        let index = add(fd: fd, session, 0, mapping: place)
        let slot = session.endpoint.open(owner: index, target: target, now: relay.instant)
        table[index].pointee.slot = slot
        relay.sessions.markDirty(session)
        if !first.isEmpty, !reader.prepend(first, index) {
            relay.events.note(.outOfMemory(session, what: "a user's bytes, connection reset"))
            session.endpoint.reset(slot, .tooMany, now: relay.instant)
            close(index, .reset)
            return nil
        }
        reader.arm(index)
        return index
    }

    /// Sets the options of an accepted connection.
    func tuneAccepted(_ fd: Int32) {
        Socket.tune(fd, Socket.peerAddress(fd)?.isLoopback ?? false)
        Socket.tuneUser(fd, unsentMaximum: unsentMaximum)
    }

    /// What was read or written before it was one of ours is counted, too.
    func beginCounts(_ index: UInt32) {
        let user = table[index]
        guard relay.ledger != nil, relay.loop.asksForCounts,
            let counts = TransferCounts(user.pointee.fd, isDialled: user.pointee.mapping.isOrigin)
        else { return }
        (user.pointee.readCount, user.pointee.writtenCount) = (counts.read, counts.written)
    }

    /// An inherited socket. `session` nil: its stream has ended.
    func restore(fd: Int32, _ session: Session?, _ slot: StreamSlot, mapping: MappingPlace) -> UInt32 {
        let index = table.insert(fd: fd, isConnecting: fd < 0)
        table[index].pointee.mapping = mapping
        guard let session else { return index }
        table[index].pointee.session = .passUnretained(session)
        table[index].pointee.slot = slot
        session.userCount += 1
        table.traffic.reopened(mapping)
        return index
    }

    /// A connection to the origin is there, for a user that waits for it; its end is a reset until an end in order lifts that.
    func connected(_ index: UInt32, fd: Int32) {
        let user = table[index]
        precondition(user.pointee.fd < 0 && user.pointee.life.phase == .connecting, "connected twice")
        user.pointee.fd = fd
        Socket.tuneUser(fd, unsentMaximum: unsentMaximum)
        user.pointee.life.connected()
        beginCounts(index)
        reader.arm(index)
        writer.markDirty(index)
    }

    /// The socket's stream goes on as `slot` of another session; its bytes all wait still.
    func move(_ index: UInt32, from old: Session, to new: Session, _ slot: StreamSlot) {
        let user = table[index]
        reader.endExpecting(user)
        relay.budget.move(user.pointee.inboundCount, from: &old.account, to: &new.account)
        user.pointee.session = .passUnretained(new)
        old.userCount -= 1
        new.userCount += 1
        user.pointee.slot = slot
        if user.pointee.lists.contains(.blocked) {
            user.pointee.lists.remove(.blocked)
            reader.readAgain(index)
        }
    }

    // MARK: Completions

    func handle(_ operation: Operation, _ completion: Completion) {
        let index = completion.token.index
        guard let user = table.find(index, completion.token.generation) else {
            if let buffer = completion.buffer { relay.loop.returnToPool(buffer) }
            return
        }
        relay.ledger?.attend(to: user.pointee.session?.takeUnretainedValue())
        switch operation {
        case .userReceivePooled:
            user.pointee.life.completed(.receive)
            reader.endExpecting(user)
            reader.received(index, user, completion.result, from: completion.buffer.map { relay.loop.poolBytes($0) })
            if let buffer = completion.buffer { relay.loop.returnToPool(buffer) }
        case .userReceive:
            user.pointee.life.completed(.receive)
            reader.received(index, user, completion.result, from: user.pointee.small)
            reader.releaseSmall(user)
        case .userReadable:
            user.pointee.life.completed(.receive)
            user.pointee.lists.insert(.readable)
            reader.arm(index)
        case .userSend:
            user.pointee.life.completed(.send)
            writer.sent(index, user, completion.result)
        case .userWritable:
            user.pointee.life.completed(.send)
            writer.markDirty(index)
        case .userWatch:
            user.pointee.life.completed(.watch)
            hungUp(index, user)
        default:
            preconditionFailure("not an operation of a user")
        }
        settle(index, user)
    }

    func handleRetry() {
        let waiting = refused
        refused.removeAll(keepingCapacity: true)
        for index in waiting where table[index].pointee.isThere {
            reader.arm(index)
            if table[index].pointee.life.inward == .ended { watch(index, table[index]) }
            writer.markDirty(index)
        }
    }

    /// The ring has no room: later, and never in this turn.
    func retryLater(_ index: UInt32) {
        #if CANARIES
        if Canary.selected == .retriesAtOnce { return reader.readAgain(index) }
        #endif
        if refused.isEmpty {
            relay.timers.set(Operation.usersRetry.token(), at: relay.now + Policy.retryDelay.nanoseconds)
        }
        refused.append(index)
    }

    // MARK: Ends

    /// The peer's RESET; the stream is gone. What the user's socket takes at once is delivered, then it is reset, as when
    /// the bytes and the RST had come over one wire.
    func abortOutbound(_ index: UInt32) { endStream(index, isComplete: false, waits: false) }

    /// The session is over; its users see what their streams came to. `isComplete`: the peer has all that they wrote.
    func endAll(of session: Session, isComplete: Bool, waits: Bool) {
        var owners: [UInt32] = []
        session.endpoint.forEachOwner { owners.append($0) }
        for index in owners { endStream(index, isComplete: isComplete, waits: waits) }
        assert(session.userCount == 0, "a socket outlives its session")
        // It would refer to memory that is gone, and nobody would close it.
        if session.userCount > 0 { table.forEach { if $1.pointee.session?.toOpaque() == Unmanaged.passUnretained(session).toOpaque() { close($0, .reset) } } }
    }

    /// `waits`: what waits for the user is delivered at its own speed, for a while.
    private func endStream(_ index: UInt32, isComplete: Bool, waits: Bool) {
        let user = table[index]
        let isComplete = isComplete && user.pointee.inboundCount == 0
        guard receiveSplice.copyIntoMemory(index) else { return close(index, .reset) }
        switch user.pointee.life.streamEnded(hasBytes: user.pointee.outboundCount > 0, isComplete: isComplete) {
        case .none:
            break
        case .closeNow(let farewell):
            close(index, farewell)
        case .flush:
            forgetStream(user)
            user.pointee.flushesOnce = !waits
            if waits {
                relay.timers.set(token(index, .flushDeadline), at: relay.now + Policy.flushMaximum.nanoseconds)
                // The send under way goes on; everything else is over.
                if user.pointee.life.inFlight.isDisjoint(with: .send) { relay.loop.cancel(user.pointee.fd) }
                writer.markDirty(index)
            } else if !user.pointee.life.inFlight.isEmpty {
                relay.loop.cancel(user.pointee.fd)
            }
            settle(index, user)
        }
    }

    func handleFlushDeadline(_ index: UInt32) {
        if table[index].pointee.life.phase == .flushing { close(index, .reset) }
    }

    /// Moves a socket on that waits for its operations to end.
    func settle(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        guard user.pointee.isThere else { return }
        if user.pointee.life.mayRelease { return release(index, user) }
        guard user.pointee.life.phase == .flushing, user.pointee.flushesOnce, user.pointee.life.inFlight.isEmpty else { return }
        if user.pointee.flushed || user.pointee.outboundCount == 0 {
            close(index, user.pointee.life.farewell)
        } else {
            user.pointee.flushed = true
            writer.submit(index, user, .trying)
            if user.pointee.life.inFlight.isEmpty { close(index, .reset) }
        }
    }

    /// The stream is over or reset already; the descriptor follows when nothing is in flight.
    func close(_ index: UInt32, _ farewell: SocketLife.CloseMode) {
        let user = table[index]
        forgetStream(user)
        guard user.pointee.life.close(farewell) else { return }
        if farewell == .orderly, user.pointee.fd >= 0 { Socket.abortOnClose(user.pointee.fd, false) }
        if user.pointee.life.inFlight.isEmpty { release(index, user) } else { relay.loop.cancel(user.pointee.fd) }
    }

    /// The inbound bytes no longer have a stream.
    private func forgetStream(_ user: UnsafeMutablePointer<LocalSocket>) {
        guard let session = user.pointee.session?.takeUnretainedValue() else { return }
        reader.endExpecting(user)
        user.pointee.session = nil
        session.userCount -= 1
        table.traffic.closed(user.pointee.mapping)
        let count = user.pointee.inboundCount
        if count > 0 {
            relay.budget.releaseUnplaced(count, &session.account)
            relay.sessions.markDirty(session)
        }
        queue_clear(&user.pointee.inbound, relay.arena)
    }

    private func release(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        assert(user.pointee.life.mayRelease && user.pointee.session == nil, "released a socket that is in use")
        relay.timers.cancel(token(index, .flushDeadline))
        relay.origins.forget(index)
        if user.pointee.fd >= 0 { relay.loop.close(user.pointee.fd) }
        relay.budget.removePending(user.pointee.outboundCount)
        receiveSplice.forget(index, user)
        queue_clear(&user.pointee.outbound, relay.arena)
        reader.becomeCold(index, user)
        let farewell = user.pointee.life.farewell
        table.remove(index)
        relay.client?.handleUserGone(index, farewell)
    }

    // MARK: Handing over

    /// Cancels all operations; none begins before `resume`.
    func suspend() {
        table.forEach { _, user in if !user.pointee.life.inFlight.isEmpty { relay.loop.cancel(user.pointee.fd) } }
    }

    /// No operation is in flight.
    var isQuiet: Bool { !table.contains { !$0.pointee.life.inFlight.isEmpty || $0.pointee.flushesOnce } }

    /// Reads bytes in pipes into memory. A connection whose bytes have no room there is reset.
    func copyIntoMemory() {
        table.forEach { index, user in
            guard !receiveSplice.copyIntoMemory(index) else { return }
            let session = user.pointee.session?.takeUnretainedValue()
            relay.events.note(.outOfMemory(session, what: "bytes for a user, connection reset"))
            session?.endpoint.reset(user.pointee.slot, .tooMany, now: relay.instant)
            close(index, .reset)
        }
    }

    func resume() {
        table.forEach { index, user in
            guard user.pointee.fd >= 0 else { return }
            reader.readAgain(index)
            writer.markDirty(index)
            if user.pointee.life.inward == .ended { watch(index, user) }
        }
    }

    // MARK: Resets

    /// The user's connection was reset, or refuses bytes. What it wrote before goes first, as far as credit covers it.
    func userReset(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ session: Session) {
        relay.sessions.markDirty(session)
        let coversRest = user.pointee.inboundCount > 0 && session.endpoint.isCovered(user.pointee.slot)
        switch user.pointee.life.receivedReset(coversRest: coversRest) {
        case .none, .resetLater:
            break
        case .resetNow:
            session.endpoint.reset(user.pointee.slot, .reset, now: relay.instant)
            close(index, .reset)
        }
    }

    /// After the user's FIN a reset of its would go unnoticed without a receive: watch for it.
    func watch(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        guard user.pointee.life.mayWatch, !relay.handover.isUnderWay else { return }
        guard relay.loop.watchHangup(user.pointee.fd, token(index, .userWatch)) else { return retryLater(index) }
        user.pointee.life.submitted(.watch)
    }

    func hungUp(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        guard user.pointee.life.phase == .open, let session = user.pointee.session?.takeUnretainedValue(),
            Socket.takeError(user.pointee.fd) != nil
        else { return }
        userReset(index, user, session)
    }
}
