import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel

/// Writes local sockets: bytes of peers go from the session into them.
final class LocalWriter {
    unowned(unsafe) private let relay: RelayProcess
    private let loop: Loop
    private let budget: Budget
    private let sessions: Sessions
    private let table: LocalTable
    private let receiveSplice: ReceiveSplice
    /// Sockets with bytes, or an end, to pass on in this iteration.
    private var dirty: [UInt32] = []

    init(_ relay: RelayProcess, _ table: LocalTable, _ receiveSplice: ReceiveSplice) {
        (self.relay, self.table, self.receiveSplice) = (relay, table, receiveSplice)
        (loop, budget, sessions) = (relay.loop, relay.budget, relay.sessions)
    }

    private var locals: LocalSockets { relay.locals }
    var hasWork: Bool { !dirty.isEmpty }

    /// Bytes of the peer for this user; they lie in a carrier's block. False: no memory.
    func deliver(_ index: UInt32, _ bytes: UnsafeMutableRawPointer, _ count: Int) -> Bool {
        let user = table[index]
        var piped = 0
        if let backlog = user.pointee.backlog, count <= Policy.headerByteCount, receiveSplice.continues(backlog, user) {
            piped = backlog.write(bytes, count, now: relay.now)
        }
        budget.addPending(piped)
        markDirty(index)
        if user.pointee.lists.contains(.unnamed) { relay.destinations.handleDelivered(index) }
        return piped == count || wait(user, bytes + piped, count - piped)
    }

    /// Bytes that wait in memory.
    private func wait(_ user: UnsafeMutablePointer<LocalSocket>, _ bytes: UnsafeMutableRawPointer, _ count: Int) -> Bool {
        let isSlow = user.pointee.outboundCount > 0
        let copies = count < (isSlow ? Policy.outboundCopyBelowWhenSlow : Policy.outboundCopyBelow) || isFragmented
        let failed = copies ? copy(user, bytes, count) : queue_append_block(&user.pointee.outbound, relay.arena, bytes, count)
        guard failed == 0 else { return false }
        budget.addPending(count)
        return true
    }

    /// A reference to some of a slab's bytes holds all of the slab: a user who does not read would hold more than it was granted. So
    /// when the blocks in use hold much more memory than bytes, bytes that will wait are copied.
    private var isFragmented: Bool {
        arena_used(relay.arena) > budget.accountedByteCount / 4 * 5 + Policy.fragmentedByteCount
    }

    /// Into pages, densely.
    private func copy(_ user: UnsafeMutablePointer<LocalSocket>, _ bytes: UnsafeMutableRawPointer, _ count: Int) -> Int32 {
        var copied = 0
        while copied < count {
            let part = min(count - copied, Policy.copyAtOnce)
            let failed = queue_append_copy(&user.pointee.outbound, relay.arena, bytes + copied, part)
            if failed != 0 { return failed }  // The session ends, and the user with it.
            copied += part
        }
        return 0
    }

    /// The peer's FIN: passed on behind the last byte.
    func finish(_ index: UInt32) {
        table[index].pointee.life.receivedPeerFin()
        markDirty(index)
    }

    func markDirty(_ index: UInt32) {
        guard !table[index].pointee.lists.contains(.dirty) else { return }
        table[index].pointee.lists.insert(.dirty)
        dirty.append(index)
    }

    /// One send for each that has bytes.
    func flush() {
        guard !dirty.isEmpty else { return }
        var next = 0
        while next < dirty.count {
            flush(dirty[next])
            next += 1
        }
        dirty.removeAll(keepingCapacity: true)
    }

    private func flush(_ index: UInt32) {
        let user = table[index]
        user.pointee.lists.remove(.dirty)
        guard user.pointee.fd >= 0, user.pointee.life.maySend, !user.pointee.flushesOnce, !relay.handover.isUnderWay else { return }
        if let backlog = user.pointee.backlog, backlog.byteCount > 0, backlog.olderByteCount == 0 {
            receiveSplice.send(index, user, backlog)
            if backlog.byteCount > 0 || !user.pointee.life.maySend { return }
        }
        if user.pointee.outboundCount > 0 { return submit(index, user, .waiting) }
        switch user.pointee.life.tookAll() {
        case .none:
            break
        case .finish:
            Socket.shutdownWriting(user.pointee.fd)
            guard let session = user.pointee.session?.takeUnretainedValue() else { return }
            if session.endpoint.drain(user.pointee.slot) { locals.close(index, .orderly) }
        case .close(let farewell):
            locals.close(index, farewell)
        }
    }

    /// A successor must know how much the socket took.
    private static var unhurried: Loop.SendMode {
        #if CANARIES
        if Canary.selected == .forgetsSends { return .forgotten }
        #endif
        return .unhurried
    }

    func submit(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ mode: Loop.SendMode) {
        var gathered = 0
        var most = Policy.userSendByteCount
        if let backlog = user.pointee.backlog, backlog.byteCount > 0 { most = min(most, backlog.olderByteCount) }
        let count = queue_gather(
            &user.pointee.outbound, user.pointee.outbound.head, most, relay.iovecs,
            UInt32(Policy.userIovecMaximum), &gathered)
        let isLast = gathered == user.pointee.outboundCount && user.pointee.life.phase == .open && user.pointee.life.outward == .open
        let chosen = mode == .waiting && isLast && gathered <= Policy.unhurriedMaximum ? LocalWriter.unhurried : mode
        if loop.send(user.pointee.fd, relay.iovecs, Int(count), table.token(index, .userSend), chosen) {
            user.pointee.life.submitted(.send)
        } else if mode != .trying {
            locals.retryLater(index)
        }
    }

    /// Of those that wait in memory, at most `most`.
    func firstBytes(_ user: UnsafeMutablePointer<LocalSocket>, _ most: Int) -> [UInt8] {
        var gathered = 0
        let count = queue_gather(
            &user.pointee.outbound, user.pointee.outbound.head, most, relay.iovecs, UInt32(Policy.userIovecMaximum), &gathered)
        return (0..<Int(count)).flatMap { UnsafeRawBufferPointer(start: relay.iovecs[$0].iov_base, count: relay.iovecs[$0].iov_len) }
    }

    /// Bytes that were for us are not passed on.
    func drop(_ index: UInt32, _ count: Int) {
        let user = table[index]
        queue_release(&user.pointee.outbound, relay.arena, user.pointee.outbound.head + UInt64(count))
        took(user, count)
    }

    /// The user's socket took `count` bytes.
    func took(_ user: UnsafeMutablePointer<LocalSocket>, _ count: Int) {
        budget.removePending(count)
        table.traffic.taken(user.pointee.mapping, count)
        guard let session = user.pointee.session?.takeUnretainedValue() else { return }
        let ahead = user.pointee.backlog == nil ? Int.max : Policy.passedAhead
        let room = session.endpoint.measuresRoom(user.pointee.slot, count) ? room(of: user, session) : 0
        session.endpoint.consume(user.pointee.slot, count, ahead: ahead, room: room, now: relay.instant)
        if session.endpoint.takeShortage() { relay.server?.handleShortage(session) }
        sessions.markDirty(session)
    }

    /// Bytes that the user's socket takes now, and its part of the pipes: none of them needs memory.
    private func room(of user: UnsafeMutablePointer<LocalSocket>, _ session: Session) -> Int {
        let room = Socket.sendRoom(user.pointee.fd, unsentMaximum: locals.unsentMaximum)
        guard let backlog = user.pointee.backlog else { return room }
        let pipe = session.carrier?.isLoopback == true ? Policy.pipeHoldsOnLoopback : Policy.pipeHolds
        let part = min(Policy.passedAhead, pipe * relay.pipes.maximum / max(1, receiveSplice.socketCount))
        return room + max(0, part - backlog.byteCount)
    }

    func sent(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ result: Int32) {
        if result > 0 {
            let count = Int(result)
            user.pointee.writtenCount += UInt64(count)
            queue_release(&user.pointee.outbound, relay.arena, user.pointee.outbound.head + UInt64(count))
            if let backlog = user.pointee.backlog { backlog.olderByteCount = max(0, backlog.olderByteCount - count) }
            took(user, count)
            return markDirty(index)
        }
        let error = SystemError(-result)
        switch user.pointee.life.phase {
        case .open where error.isPassing || error.isShortage:
            error.isShortage ? locals.retryLater(index) : markDirty(index)
        case .open:
            if let session = user.pointee.session?.takeUnretainedValue() { locals.userReset(index, user, session) }
        case .flushing where !user.pointee.flushesOnce:
            if error.isPassing { markDirty(index) } else { locals.close(index, .reset) }
        case .flushing, .connecting, .closing:
            break
        }
    }
}
