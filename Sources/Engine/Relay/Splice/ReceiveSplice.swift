import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel

/// From the carrier through a pipe into a user's socket, without a copy: while payload comes fast, the carrier is read when it
/// is readable; what lies between payload, in small receives.
final class ReceiveSplice {
    unowned(unsafe) private let relay: RelayProcess
    private let table: LocalTable
    /// Sockets to which payload is passed on without being copied.
    private var passed: [UInt32] = []
    /// Bytes that were passed on.
    var byteCount: UInt64 = 0

    init(_ relay: RelayProcess, _ table: LocalTable) { (self.relay, self.table) = (relay, table) }

    private var locals: LocalSockets { relay.locals }
    private var carriers: Carriers { relay.carriers }
    var socketCount: Int { passed.count }

    // MARK: From carriers

    /// All that came was read; `wasFull`: more is there. Long payload that comes next is passed on.
    func notePayload(_ carrier: Carrier, _ session: Session, wasFull: Bool) {
        guard wasFull, !carrier.passes, mayPass(carrier), carrier.block.unread.isEmpty,
            let due = session.endpoint.payloadDue, due.byteCount >= Policy.passAbove,
            mayBePassed(due.owner)
        else { return }
        carrier.passes = true
        carrier.shortPayloads = 0
        carriers.reader.keepWarm(carrier)
    }

    /// TLS has to touch every byte. On a long path the CPU is not the limit, and more is on its way than pipes hold.
    private func mayPass(_ carrier: Carrier) -> Bool {
        guard carrier.transport.channel == nil, carrier.subflows == nil else { return false }
        return switch relay.configuration.splicing {
        case .always: true
        case .never: false
        case .auto: carrier.isLoopback || carrier.isNear
        }
    }

    /// The carrier is readable.
    func pass(_ carrier: Carrier) {
        // Streams whose payload is not passed on wait for the end of the turn: one may be somebody who types.
        let hasOthers = carrier.session.map { $0.endpoint.streamCount > passed.count } ?? false
        let most = hasOthers ? Policy.spliceTurnBesideOthers : Policy.spliceTurnByteCount
        var left = most
        while left > 0, carrier.passes, !carrier.isUnfinished, let session = carrier.session, session.carrier === carrier,
            let count = passNext(carrier, session)
        {
            left -= count
        }
        guard !carrier.isOver else { return }
        if left < most {
            carrier.arrivedAt = relay.now
            carriers.reader.keepWarm(carrier)
        }
        // The kernel reported it readable and no call moved a byte: a receive finds out why (`SendSplice.failed`).
        if left == most { carrier.passes = false }
        carriers.reader.readAgain(carrier)
    }

    /// Bytes that were read. Nil: no more for now, or for ever.
    private func passNext(_ carrier: Carrier, _ session: Session) -> Int? {
        guard carrier.block.unread.isEmpty, let due = session.endpoint.payloadDue else {
            return readNext(carrier, Policy.headerByteCount)
        }
        let result = fill(due.owner, from: carrier.fd, due.byteCount)
        switch result {
        case .moved(let count):
            session.endpoint.passed(count, now: relay.instant)
            noteLength(carrier, count, of: due.byteCount, least: Policy.passLeast)
            session.endpoint.heard(now: relay.instant)
            relay.sessions.markDirty(session)
            relay.server?.handleProven(session)
            relay.sessions.noteLife(session)
            return count
        case .busy:
            return readNext(carrier, due.byteCount)
        default:
            stop(carrier, result)
            return nil
        }
    }

    /// Nothing was read.
    private func stop(_ carrier: Carrier, _ result: PipeBacklog.Filled) {
        switch result {
        case .moved, .busy, .nothing: break
        case .notPossible: carrier.passes = false
        case .failed(let error) where error.isShortage: carrier.passes = false
        case .failed(let error): carriers.lost(carrier, error.description)
        // A splice says so at an urgent mark, too: the next receive tells the truth.
        case .ended: carrier.passes = false
        }
    }

    /// Frames that are no long payload are read many at a time.
    private func noteBetween(_ carrier: Carrier, wasFull: Bool) {
        guard let session = carrier.session else { return }
        guard let due = session.endpoint.payloadDue else {
            if wasFull { carrier.passes = false }
            return
        }
        noteLength(carrier, due.byteCount, of: .max, least: Policy.passAbove / 2)
    }

    /// Short pieces cost more than copies, and each holds a whole page of the kernel: a peer that drips is read into memory.
    private func noteLength(_ carrier: Carrier, _ count: Int, of due: Int, least: Int) {
        carrier.shortPayloads = count < min(least, due) ? carrier.shortPayloads + 1 : carrier.shortPayloads / 2
        if carrier.shortPayloads >= Policy.passEndStreak { carrier.passes = false }
    }

    /// Into memory, at most so many bytes.
    private func readNext(_ carrier: Carrier, _ most: Int) -> Int? {
        let wasBetween = carrier.session?.endpoint.payloadDue == nil
        guard carriers.reader.makeRoom(carrier) else {
            carrier.passes = false
            return nil
        }
        let most = min(carrier.block.room.count, most)
        let result = PipeBacklog.Filled(Socket.receive(carrier.fd, carrier.block.room.baseAddress!, most))
        guard case .moved(let count) = result else {
            stop(carrier, result)
            return nil
        }
        carrier.block.filled += count
        carriers.reader.read(carrier)
        if wasBetween { noteBetween(carrier, wasFull: count == most) }
        return count
    }

    // MARK: Into local sockets

    private func mayBePassed(_ index: UInt32) -> Bool {
        let user = table[index]
        return user.pointee.life.phase == .open && (user.pointee.backlog != nil || passed.count < Policy.passedUsersMaximum)
    }

    /// Payload for the user, of which `count` bytes come next on the carrier, goes into its pipes.
    private func fill(_ index: UInt32, from carrier: Int32, _ count: Int) -> PipeBacklog.Filled {
        let user = table[index]
        guard mayBePassed(index) else { return .busy }
        let backlog = backlog(index, user)
        guard continues(backlog, user) else { return .busy }
        let filled = backlog.fill(from: carrier, min(count, Policy.spliceByteCount), now: relay.now)
        if case .moved(let moved) = filled {
            byteCount += UInt64(moved)
            relay.budget.addPending(moved)
            locals.writer.markDirty(index)
        }
        return filled
    }

    private func backlog(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) -> PipeBacklog {
        if let backlog = user.pointee.backlog { return backlog }
        let backlog = PipeBacklog(relay.pipes)
        user.pointee.backlog = backlog
        passed.append(index)
        return backlog
    }

    /// Whether more may go into the user's pipes: nothing in memory is younger than what lies there. When they are empty, all in memory
    /// is older than what comes now.
    func continues(_ backlog: PipeBacklog, _ user: UnsafeMutablePointer<LocalSocket>) -> Bool {
        let waiting = queue_count_of(user.pointee.outbound)
        if backlog.byteCount == 0 { backlog.olderByteCount = waiting }
        return backlog.olderByteCount == waiting
    }

    /// The user takes what it can of its pipes, at once or behind the commit.
    func send(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ backlog: PipeBacklog) {
        if let delayed = relay.delayedMoves { delayed.add(index, user.pointee.generation) } else { sendNow(index, user, backlog) }
    }

    /// For a socket whose turn has come behind the commit.
    func sendDelayed(_ index: UInt32, _ generation: UInt32) {
        guard let user = table.find(index, generation), user.pointee.fd >= 0, user.pointee.life.maySend, !user.pointee.flushesOnce,
            let backlog = user.pointee.backlog, backlog.byteCount > 0, backlog.olderByteCount == 0
        else { return }
        sendNow(index, user, backlog)
        if backlog.byteCount == 0 { locals.writer.markDirty(index) }
    }

    private func sendNow(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ backlog: PipeBacklog) {
        while backlog.byteCount > 0, user.pointee.life.maySend {
            guard let drained = backlog.drain(to: user.pointee.fd, table.token(index, .userSend)) else { return locals.writer.markDirty(index) }
            switch drained {
            case .success(let moved) where moved > 0:
                user.pointee.writtenCount += UInt64(moved)
                locals.writer.took(user, moved)
            case .failure(let error) where error.code == EAGAIN:
                guard relay.loop.writable(user.pointee.fd, table.token(index, .userWritable)) else { return locals.retryLater(index) }
                return user.pointee.life.submitted(.send)
            case .failure(let error) where error.isShortage:
                return locals.retryLater(index)
            case .success, .failure:
                if let session = user.pointee.session?.takeUnretainedValue() { locals.userReset(index, user, session) }
                return
            }
        }
    }

    /// What lies in the user's pipes is read into memory, to its place there. False: no memory, and bytes are lost: the connection must be reset.
    func copyIntoMemory(_ index: UInt32) -> Bool {
        let user = table[index]
        guard let backlog = user.pointee.backlog else { return true }
        var piped = byte_queue()
        queue_init(&piped, 0)
        let (count, older) = (backlog.byteCount, backlog.byteCount > 0 ? backlog.olderByteCount : 0)
        let isCopied = backlog.copyOut { source, most in
            guard let slab = arena_slab(relay.arena) else { return 0 }
            defer { arena_release(relay.arena, slab) }
            guard case .success(let moved) = source.read(slab, min(most, Int(SLAB_BYTES))), moved > 0,
                queue_append_block(&piped, relay.arena, slab, moved) == 0
            else { return 0 }
            return moved
        }
        forget(index, user)
        guard isCopied, insert(&piped, into: &user.pointee.outbound, after: older) else {
            relay.budget.removePending(isCopied ? queue_count_of(piped) : count)
            queue_clear(&piped, relay.arena)
            return false
        }
        return true
    }

    /// False: no memory. Then what was first is first still: a send of it may be under way.
    private func insert(_ piped: inout byte_queue, into queue: inout byte_queue, after older: Int) -> Bool {
        var whole = byte_queue()
        queue_init(&whole, 0)
        guard queue_move(&whole, &queue, relay.arena, older, 0) == 0 else { return false }
        let holds =
            queue_move(&whole, &piped, relay.arena, queue_count_of(piped), 0) == 0
            && queue_move(&whole, &queue, relay.arena, queue_count_of(queue), 0) == 0
        relay.budget.removePending(queue_count_of(queue))
        queue_clear(&queue, relay.arena)
        queue = whole
        return holds
    }

    func forget(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        guard let backlog = user.pointee.backlog else { return }
        backlog.clear()
        user.pointee.backlog = nil
        passed.removeAll { $0 == index }
    }

    /// Users whom nothing is passed to any more leave their places to others.
    func coolDown() {
        for index in passed {
            guard let backlog = table[index].pointee.backlog, backlog.byteCount == 0,
                relay.now > backlog.filledAt + Policy.hotMaximum.nanoseconds
            else { continue }
            forget(index, table[index])
        }
    }
}
