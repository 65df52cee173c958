import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel

/// Users whose bytes come fast are spliced into the carrier, and payload that comes fast is passed on to them, without being
/// copied. Everything unusual goes by memory: what lies in a pipe is read into it, and all goes on as ever.
extension LocalSockets {
    // MARK: From users

    /// So much was read of it. Who brings much in a short time is spliced from now on.
    func noteReceive(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ count: Int) {
        if relay.now > user.pointee.countedSince + Policy.spliceWindow.nanoseconds {
            user.pointee.countedSince = relay.now
            user.pointee.counted = 0
        }
        user.pointee.counted += count
        guard user.pointee.counted >= Policy.spliceWindowByteCount, let session = user.pointee.session?.takeUnretainedValue(),
              relay.carriers.splices(session), session.splicing.count < Policy.splicersMaximum else { return }
        user.pointee.counted = 0
        user.pointee.streak = 0
        user.pointee.lists.insert(.spliced)
        becomeCold(index, user)
    }

    /// It waits for its turn to be spliced. False: it is not to be spliced any more.
    func awaitTurn(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ session: Session) -> Bool {
        guard relay.carriers.splices(session), session.splicing.count < Policy.splicersMaximum else {
            user.pointee.lists.remove(.spliced)
            return false
        }
        guard !user.pointee.lists.contains(.splicing) else { return true }
        user.pointee.lists.insert(.splicing)
        session.splicing.append(index)
        relay.sessions.markDirty(session)
        return true
    }

    /// The user whose turn it is: the first whose bytes the peer has room for. Nil: nobody may go now.
    func nextToSplice(_ session: Session) -> UInt32? {
        guard session.endpoint.spliceRoom > 0 else { return nil }
        session.splicing.removeAll { !isInTurn($0, session) }
        return session.splicing.first { session.endpoint.spliceRoom(table[$0].pointee.slot) > 0 }
    }

    /// It still waits for its turn; its entry may be older than the socket.
    private func isInTurn(_ index: UInt32, _ session: Session) -> Bool {
        let user = table[index]
        if user.pointee.fd >= 0, user.pointee.lists.contains(.splicing), user.pointee.life.mayReceive,
           user.pointee.session?.toOpaque() == Unmanaged.passUnretained(session).toOpaque() { return true }
        user.pointee.lists.remove(.splicing)
        return false
    }

    /// It had its turn.
    func endTurn(_ index: UInt32, _ session: Session) {
        session.splicing.removeAll { $0 == index }
        table[index].pointee.lists.remove(.splicing)
    }

    /// A splice brought so much of what it might have, which is held from now on. Short ones cost more than copies.
    func spliced(_ index: UInt32, _ session: Session, _ count: Int, _ room: Int) {
        relay.budget.hold(count, &session.account)
        splicedByteCount += UInt64(count)
        let user = table[index]
        traffic.read(user.pointee.mapping, count)
        user.pointee.lists.remove(.readable)
        user.pointee.streak = count < min(room, Policy.spliceAbove) ? user.pointee.streak + 1 : user.pointee.streak / 2
        if user.pointee.streak >= Policy.spliceEndStreak { user.pointee.lists.remove(.spliced) }
    }

    /// It goes by memory from now on.
    func stopSplicing(_ index: UInt32) {
        table[index].pointee.lists.remove(.spliced)
        table[index].pointee.streak = 0
        readers.append(index)
    }

    /// A splice brought nothing. splice(2) stops at an urgent mark, with EAGAIN or, behind a FIN, with 0, although bytes follow
    /// (net/ipv4/tcp.c, tcp_read_sock). So where poll contradicts it, and at what looks like the end, a receive decides.
    func spliceFailed(_ index: UInt32, _ error: SystemError?) {
        let user = table[index]
        switch error?.code {
        case nil:
            #if CANARIES
            if Canary.selected == .urgentMarkIsEnd { return received(index, user, 0, from: nil) }
            #endif
            stopSplicing(index)
        case EAGAIN where user.pointee.lists.contains(.readable):
            user.pointee.lists.remove(.readable)
            stopSplicing(index)
        case EAGAIN:
            guard relay.loop.readable(user.pointee.fd, token(index, .userReadable)) else { return retryLater(index) }
            user.pointee.life.submitted(.receive)
        case EINVAL, ENOSYS, EPERM:
            stopSplicing(index)  // A sandbox, or no socket that can be spliced.
        default:
            received(index, user, -error!.code, from: nil)
        }
    }

    /// What a splice brought cannot be kept in the kernel: `count` bytes in a pipe go by memory, which gives the pipe back.
    func spliceRefused(_ index: UInt32, _ pipe: Pipe, _ count: Int) {
        let user = table[index]
        guard let session = user.pointee.session?.takeUnretainedValue() else { return relay.pipes.give(pipe, left: count) }
        var left = count
        while left > 0, let slab = arena_slab(relay.arena) {
            defer { arena_release(relay.arena, slab) }
            guard case .success(let moved) = pipe.read(slab, min(left, Int(SLAB_BYTES))), moved > 0,
                  queue_append_block(&user.pointee.inbound, relay.arena, slab, moved) == 0 else { break }
            left -= moved
            relay.budget.holdUnplaced(moved, &session.account)
            traffic.read(user.pointee.mapping, moved)
            session.endpoint.write(user.pointee.slot, moved)
        }
        relay.pipes.give(pipe, left: left)
        relay.sessions.markDirty(session)
        guard left == 0 else {
            relay.events.note(.outOfMemory(session, what: "a user's bytes, connection reset"))
            session.endpoint.reset(user.pointee.slot, .tooMany, now: relay.instant)
            return close(index, .reset)
        }
        stopSplicing(index)
    }

    /// The session's carrier is gone or doubted: its users are read by memory.
    func stopSplicing(of session: Session) {
        for index in session.splicing where table[index].pointee.fd >= 0 && table[index].pointee.lists.contains(.splicing) {
            table[index].pointee.lists.subtract([.splicing, .spliced])
            readers.append(index)
        }
        session.splicing.removeAll(keepingCapacity: true)
    }

    // MARK: To users

    func mayBePassed(_ index: UInt32) -> Bool {
        let user = table[index]
        return user.pointee.life.phase == .open && (user.pointee.backlog != nil || passed.count < Policy.passedUsersMaximum)
    }

    /// Payload for the user, of which `count` bytes come next on the carrier, goes into its pipes.
    func pass(_ index: UInt32, from carrier: Int32, _ count: Int) -> PipeBacklog.Filled {
        let user = table[index]
        guard mayBePassed(index) else { return .busy }
        let backlog = backlog(index, user)
        guard continues(backlog, user) else { return .busy }
        let filled = backlog.fill(from: carrier, min(count, Policy.spliceByteCount), now: relay.now)
        if case .moved(let moved) = filled {
            passedByteCount += UInt64(moved)
            relay.budget.addPending(moved)
            markDirty(index)
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

    /// The user takes what it can of its pipes.
    func sendPiped(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ backlog: PipeBacklog) {
        while backlog.byteCount > 0, user.pointee.life.maySend {
            switch backlog.drain(to: user.pointee.fd) {
            case .success(let moved) where moved > 0:
                took(user, moved)
            case .failure(let error) where error.code == EAGAIN:
                guard relay.loop.writable(user.pointee.fd, token(index, .userWritable)) else { return retryLater(index) }
                return user.pointee.life.submitted(.send)
            case .failure(let error) where error.isShortage:
                return retryLater(index)
            case .success, .failure:
                if let session = user.pointee.session?.takeUnretainedValue() { userReset(index, user, session) }
                return
            }
        }
    }

    /// What lies in the user's pipes is read into memory, to its place there. False: no memory.
    func copyIntoMemory(_ index: UInt32) -> Bool {
        let user = table[index]
        guard let backlog = user.pointee.backlog else { return true }
        var piped = byte_queue()
        queue_init(&piped, 0)
        let older = backlog.byteCount > 0 ? backlog.olderByteCount : 0
        while backlog.byteCount > 0, let slab = arena_slab(relay.arena) {
            defer { arena_release(relay.arena, slab) }
            guard case .success(let moved) = backlog.read(slab, Int(SLAB_BYTES)), moved > 0,
                  queue_append_block(&piped, relay.arena, slab, moved) == 0 else { break }
        }
        guard backlog.byteCount == 0, insert(&piped, into: &user.pointee.outbound, after: older) else {
            relay.budget.removePending(queue_count_of(piped))
            queue_clear(&piped, relay.arena)
            return false
        }
        forgetBacklog(index, user)
        return true
    }

    /// False: no memory. Then what was first is first still: a send of it may be under way.
    private func insert(_ piped: inout byte_queue, into queue: inout byte_queue, after older: Int) -> Bool {
        var whole = byte_queue()
        queue_init(&whole, 0)
        guard queue_move(&whole, &queue, relay.arena, older, 0) == 0 else { return false }
        let holds = queue_move(&whole, &piped, relay.arena, queue_count_of(piped), 0) == 0
            && queue_move(&whole, &queue, relay.arena, queue_count_of(queue), 0) == 0
        relay.budget.removePending(queue_count_of(queue))
        queue_clear(&queue, relay.arena)
        queue = whole
        return holds
    }

    func forgetBacklog(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        guard let backlog = user.pointee.backlog else { return }
        backlog.clear()
        user.pointee.backlog = nil
        passed.removeAll { $0 == index }
    }

    /// Users whom nothing is passed to any more leave their places to others.
    func coolPassed() {
        for index in passed {
            guard let backlog = table[index].pointee.backlog, backlog.byteCount == 0,
                  relay.now > backlog.filledAt + Policy.hotMaximum.nanoseconds else { continue }
            forgetBacklog(index, table[index])
        }
    }
}
