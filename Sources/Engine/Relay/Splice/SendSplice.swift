import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel

/// From a user's socket through a pipe into the carrier, without a copy.
///
/// A spliced frame is one send: control frames and the header, then the payload out of its pipe. A second pipe keeps the same
/// pages until they are acknowledged. When the carrier is lost or doubted, what is kept is brought into memory, and all goes on
/// as for any frame.
final class SendSplice {
    unowned(unsafe) private let relay: RelayProcess
    private let table: LocalTable
    /// Bytes that were spliced in this turn.
    private var spent = 0
    /// Bytes of users that were spliced.
    var byteCount: UInt64 = 0

    init(_ relay: RelayProcess, _ table: LocalTable) { (self.relay, self.table) = (relay, table) }

    private var locals: LocalSockets { relay.locals }
    private var carriers: Carriers { relay.carriers }

    /// TLS has to touch every byte. On a slow path a whole frame would keep others waiting; and there the CPU is not the limit.
    func splices(_ session: Session) -> Bool {
        guard let carrier = session.carrier, session.isHealthy, !carrier.isOver, carrier.transport.channel == nil, carrier.subflows == nil else { return false }
        let most =
            switch relay.configuration.splicing {
            case .always: Policy.splicersMaximum
            case .never: 0
            case .auto: carrier.isLoopback || isFast(carrier) ? Policy.splicersMaximum : carrier.isNear ? 1 : 0
            }
        return session.endpoint.streamCount <= most
    }

    private func isFast(_ carrier: Carrier) -> Bool {
        guard let window = carrier.window, carrier.isNear else { return false }
        return window.openWorth(Policy.spliceTime) >= Policy.spliceFastMinimum
    }

    /// One frame: others wait for it. Alone, or on loopback, a stream need not care.
    private func frameMaximum(_ carrier: Carrier, _ session: Session) -> Int {
        guard let window = carrier.window, session.endpoint.streamCount > 1, relay.configuration.splicing == .auto else { return .max }
        return window.openWorth(Policy.spliceTime)
    }

    func beginTurn() { spent = 0 }

    /// Streams that are not spliced wait for the end of the turn: one may be somebody who types.
    private func turnMaximum(_ session: Session) -> Int {
        session.endpoint.streamCount > session.splicing.count ? Policy.spliceTurnBesideOthers : Policy.spliceTurnByteCount
    }

    /// Users whose bytes are spliced take so many turns. Returns how many are left.
    func splice(_ session: Session, _ carrier: Carrier, most: Int, rounds: Int) -> Int {
        var rounds = rounds
        while rounds > 0, carrier.isReady, let index = next(session) {
            guard splices(session) else {
                stopAll(of: session)
                return 0
            }
            guard spent < turnMaximum(session) else {
                relay.sessions.postpone(session)
                return rounds
            }
            let share = max(Policy.spliceShareMinimum, Policy.spliceRoundByteCount / session.splicing.count)
            let room = min(most, share, frameMaximum(carrier, session), session.endpoint.spliceRoom(table[index].pointee.slot))
            // Frames that are acknowledged give their pipes back: that is soon.
            guard room > 0, relay.pipes.has(2) || session.kept.byteCount == 0, relay.pipes.log?.hasRoom ?? true else { return rounds }
            rounds -= 1
            endTurn(index, session)
            guard relay.budget.room(session.account) > 0 else {
                locals.reader.arm(index)  // It waits for memory.
                continue
            }
            guard let transit = relay.pipes.take(now: relay.now) else {
                stop(index)
                continue
            }
            guard let keeper = relay.pipes.take(now: relay.now) else {
                relay.pipes.give(transit, left: 0)
                stop(index)
                continue
            }
            let filled = fill(transit, index, room)
            if case .success(let count) = filled, count > 0 {
                begin(index, session, carrier, count, room, transit, keeper)
                continue
            }
            for pipe in [transit, keeper] { relay.pipes.give(pipe, left: 0) }
            if case .failure(let error) = filled { failed(index, error) } else { failed(index, nil) }
        }
        return rounds
    }

    private func fill(_ pipe: Pipe, _ index: UInt32, _ room: Int) -> Pipe.Moved {
        let fd = table[index].pointee.fd
        guard let log = relay.pipes.log else { return pipe.fill(from: fd, room) }
        return log.note(.filled, table.token(index, .userReceive), pipe) { pipe.fill(from: fd, room) }
    }

    /// `count` bytes of the user, of `room` that might be, lie in `transit`.
    private func begin(_ index: UInt32, _ session: Session, _ carrier: Carrier, _ count: Int, _ room: Int, _ transit: Pipe, _ keeper: Pipe) {
        spent += count
        table[index].pointee.readCount += UInt64(count)
        let copied = transit.copy(to: keeper, count)
        guard case .success(count) = copied else {
            if case .success(let some) = copied { relay.pipes.give(keeper, left: some) } else { relay.pipes.give(keeper, left: 0) }
            return refused(index, transit, count)
        }
        spliced(index, session, count, room)
        let (frame, batch) = session.endpoint.splice(
            table[index].pointee.slot, count, header: relay.sessions.header,
            control: carrier.control, now: relay.instant)
        relay.budget.hold(frame.headerByteCount, &session.account)
        session.kept.append(keeper, count)
        carrier.inFlight.batch = batch
        carrier.inFlight.frame = Carrier.SplicedFrame(prefix: batch.byteCount - count, byteCount: batch.byteCount, transit: transit)
        guard queue_append_copy(&session.store, relay.arena, relay.sessions.header.baseAddress, frame.headerByteCount) == 0,
            queue_append_outside(&session.store, relay.arena, UInt32(count)) == 0
        else {
            relay.events.note(.outOfMemory(session, what: "bytes in flight"))
            relay.sessions.discard(session)  // Its carrier goes with it: nothing of the frame was sent.
            return finishFrame(carrier)
        }
        if let delayed = relay.delayedMoves { delayed.add(carrier) } else { goOn(carrier) }
        locals.reader.arm(index)
    }

    /// Hands over what the carrier takes of its spliced frame.
    func goOn(_ carrier: Carrier) {
        guard let batch = carrier.inFlight.batch, let session = carrier.session else { return }
        while let frame = carrier.inFlight.frame, let transit = frame.transit, frame.sent < frame.byteCount {
            let result =
                frame.sent < frame.prefix
                ? sendPrefix(carrier, session, batch, frame)
                : transit.drain(to: carrier.fd, frame.byteCount - frame.sent)
            switch result {
            case .success(let count) where count > 0:
                carrier.inFlight.frame!.sent += count
            case .failure(let error) where error.code == EAGAIN:
                carrier.inFlight.send = relay.loop.writable(carrier.fd, carrier.token(.carrierWritable))
                if carrier.inFlight.send { return }
                return abandon(carrier)
            case .failure(let error) where error.isShortage:
                return abandon(carrier)
            case .success, .failure:
                let reason = if case .failure(let error) = result { error.description } else { "nothing can be sent" }
                finishFrame(carrier)
                return carriers.lost(carrier, reason)
            }
        }
        finishFrame(carrier)
    }

    private func sendPrefix(_ carrier: Carrier, _ session: Session, _ batch: Batch, _ frame: Carrier.SplicedFrame) -> Pipe.Moved {
        var count = 0
        let control = batch.control.count
        if frame.sent < control {
            relay.iovecs[0] = iovec(
                iov_base: carrier.control.baseAddress! + batch.control.lowerBound + frame.sent,
                iov_len: control - frame.sent)
            count = 1
        }
        let skipped = max(0, frame.sent - control)
        var gathered = 0
        count += Int(
            queue_gather(
                &session.store, batch.start + UInt64(skipped), frame.prefix - control - skipped,
                relay.iovecs + count, UInt32(Policy.iovecMaximum - 1), &gathered))
        return Socket.send(carrier.fd, relay.iovecs, count)
    }

    /// The rest goes by memory, a little later.
    private func abandon(_ carrier: Carrier) {
        if let session = carrier.session { relay.sessions.copyIntoMemory(session) }
        carriers.writer.refuse(carrier)
        finishFrame(carrier)
    }

    /// What the kernel did not take of the frame lies in the store only.
    func dropTransit(_ carrier: Carrier) {
        guard let frame = carrier.inFlight.frame, let transit = frame.transit else { return }
        relay.pipes.give(transit, left: frame.byteCount - max(frame.sent, frame.prefix))
        carrier.inFlight.frame!.transit = nil
    }

    /// The carrier takes none of its frame any more.
    func finishFrame(_ carrier: Carrier) {
        dropTransit(carrier)
        guard let frame = carrier.inFlight.frame else { return }
        carrier.inFlight.frame = nil
        carriers.writer.finishSend(carrier, frame.sent)
    }

    func writable(_ carrier: Carrier) {
        carrier.inFlight.send = false
        if carrier.isOver { finishFrame(carrier) } else { goOn(carrier) }
    }

    // MARK: Whose turn it is

    /// So much was read of it. Who brings much in a short time is spliced from now on.
    func noteReceive(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ count: Int) {
        if relay.now > user.pointee.countedSince + Policy.spliceWindow.nanoseconds {
            user.pointee.countedSince = relay.now
            user.pointee.counted = 0
        }
        user.pointee.counted += count
        guard user.pointee.counted >= Policy.spliceWindowByteCount, let session = user.pointee.session?.takeUnretainedValue(),
            splices(session), session.splicing.count < Policy.splicersMaximum
        else { return }
        user.pointee.counted = 0
        user.pointee.streak = 0
        user.pointee.lists.insert(.spliced)
        locals.reader.becomeCold(index, user)
    }

    /// It waits for its turn to be spliced. False: it is not to be spliced any more.
    func awaitTurn(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ session: Session) -> Bool {
        guard splices(session), session.splicing.count < Policy.splicersMaximum else {
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
    private func next(_ session: Session) -> UInt32? {
        guard session.endpoint.spliceRoom > 0 else { return nil }
        session.splicing.removeAll { !isInTurn($0, session) }
        return session.splicing.first { session.endpoint.spliceRoom(table[$0].pointee.slot) > 0 }
    }

    /// It still waits for its turn; its entry may be older than the socket.
    private func isInTurn(_ index: UInt32, _ session: Session) -> Bool {
        let user = table[index]
        if user.pointee.fd >= 0, user.pointee.lists.contains(.splicing), user.pointee.life.mayReceive,
            user.pointee.session?.toOpaque() == Unmanaged.passUnretained(session).toOpaque()
        {
            return true
        }
        user.pointee.lists.remove(.splicing)
        return false
    }

    /// It had its turn.
    private func endTurn(_ index: UInt32, _ session: Session) {
        session.splicing.removeAll { $0 == index }
        table[index].pointee.lists.remove(.splicing)
    }

    /// A splice brought so much of what it might have, which is held from now on. Short ones cost more than copies.
    private func spliced(_ index: UInt32, _ session: Session, _ count: Int, _ room: Int) {
        relay.budget.hold(count, &session.account)
        byteCount += UInt64(count)
        let user = table[index]
        table.traffic.read(user.pointee.mapping, count)
        user.pointee.lists.remove(.readable)
        user.pointee.streak = count < min(room, Policy.spliceAbove) ? user.pointee.streak + 1 : user.pointee.streak / 2
        if user.pointee.streak >= Policy.spliceEndStreak { user.pointee.lists.remove(.spliced) }
    }

    /// It goes by memory from now on.
    func stop(_ index: UInt32) {
        table[index].pointee.lists.remove(.spliced)
        table[index].pointee.streak = 0
        locals.reader.readAgain(index)
    }

    /// A splice brought nothing. splice(2) stops at an urgent mark, with EAGAIN or, behind a FIN, with 0, although bytes follow
    /// (net/ipv4/tcp.c, tcp_read_sock). So where poll contradicts it, and at what looks like the end, a receive decides.
    private func failed(_ index: UInt32, _ error: SystemError?) {
        let user = table[index]
        switch error?.code {
        case nil:
            #if CANARIES
            if Canary.selected == .urgentMarkIsEnd { return locals.reader.received(index, user, 0, from: nil) }
            #endif
            stop(index)
        case EAGAIN where user.pointee.lists.contains(.readable):
            user.pointee.lists.remove(.readable)
            stop(index)
        case EAGAIN:
            guard relay.loop.readable(user.pointee.fd, table.token(index, .userReadable)) else { return locals.retryLater(index) }
            user.pointee.life.submitted(.receive)
        case EINVAL, ENOSYS, EPERM:
            stop(index)  // A sandbox, or no socket that can be spliced.
        default:
            locals.reader.received(index, user, -error!.code, from: nil)
        }
    }

    /// What a splice brought cannot be kept in the kernel: `count` bytes in a pipe go by memory, which gives the pipe back.
    private func refused(_ index: UInt32, _ pipe: Pipe, _ count: Int) {
        let user = table[index]
        guard let session = user.pointee.session?.takeUnretainedValue() else { return relay.pipes.give(pipe, left: count) }
        var left = count
        while left > 0, let slab = arena_slab(relay.arena) {
            defer { arena_release(relay.arena, slab) }
            guard case .success(let moved) = pipe.read(slab, min(left, Int(SLAB_BYTES))), moved > 0,
                queue_append_block(&user.pointee.inbound, relay.arena, slab, moved) == 0
            else { break }
            left -= moved
            relay.budget.holdUnplaced(moved, &session.account)
            table.traffic.read(user.pointee.mapping, moved)
            session.endpoint.write(user.pointee.slot, moved)
        }
        relay.pipes.give(pipe, left: left)
        relay.sessions.markDirty(session)
        guard left == 0 else {
            relay.events.note(.outOfMemory(session, what: "a user's bytes, connection reset"))
            session.endpoint.reset(user.pointee.slot, .tooMany, now: relay.instant)
            return locals.close(index, .reset)
        }
        stop(index)
    }

    /// The session's carrier is gone or doubted: its users are read by memory.
    func stopAll(of session: Session) {
        for index in session.splicing where table[index].pointee.fd >= 0 && table[index].pointee.lists.contains(.splicing) {
            table[index].pointee.lists.subtract([.splicing, .spliced])
            locals.reader.readAgain(index)
        }
        session.splicing.removeAll(keepingCapacity: true)
    }
}
