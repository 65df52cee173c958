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
extension Carriers {
    /// TLS has to touch every byte. On a slow path a whole frame would keep others waiting; and there the CPU is not the limit.
    func splices(_ session: Session) -> Bool {
        guard let carrier = session.carrier, session.isHealthy, !carrier.isOver, carrier.transport.channel == nil else { return false }
        let most = switch relay.configuration.splicing {
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

    func beginTurn() { spliceAllowance = Policy.spliceTurnByteCount }

    /// Users whose bytes are spliced take so many turns. Returns how many are left.
    func splice(_ session: Session, _ carrier: Carrier, most: Int, rounds: Int) -> Int {
        var rounds = rounds
        while rounds > 0, carrier.isReady, let index = relay.locals.nextToSplice(session) {
            guard splices(session) else {
                relay.locals.stopSplicing(of: session)
                return 0
            }
            guard spliceAllowance > 0 else {
                relay.sessions.postpone(session)
                return rounds
            }
            let share = max(Policy.spliceShareMinimum, Policy.spliceRoundByteCount / session.splicing.count)
            let room = min(most, share, frameMaximum(carrier, session), session.endpoint.spliceRoom(relay.locals[index].pointee.slot))
            // Frames that are acknowledged give their pipes back: that is soon.
            guard room > 0, relay.pipes.has(2) || session.kept.byteCount == 0 else { return rounds }
            rounds -= 1
            relay.locals.endTurn(index, session)
            guard relay.budget.room(session.account) > 0 else {
                relay.locals.armReceive(index)  // It waits for memory.
                continue
            }
            guard let transit = relay.pipes.take(now: relay.now) else {
                relay.locals.stopSplicing(index)
                continue
            }
            switch transit.fill(from: relay.locals[index].pointee.fd, room) {
            case .success(let count) where count > 0:
                begin(index, session, carrier, count, room, transit)
            case .success:
                relay.pipes.give(transit, left: 0)
                relay.locals.spliceFailed(index, nil)
            case .failure(let error):
                relay.pipes.give(transit, left: 0)
                relay.locals.spliceFailed(index, error)
            }
        }
        return rounds
    }

    /// `count` bytes of the user, of `room` that might be, lie in `transit`.
    private func begin(_ index: UInt32, _ session: Session, _ carrier: Carrier, _ count: Int, _ room: Int, _ transit: Pipe) {
        spliceAllowance -= count
        guard let keeper = relay.pipes.take(now: relay.now) else { return relay.locals.spliceRefused(index, transit, count) }
        let copied = transit.copy(to: keeper, count)
        guard case .success(count) = copied else {
            if case .success(let some) = copied { relay.pipes.give(keeper, left: some) } else { relay.pipes.give(keeper, left: 0) }
            return relay.locals.spliceRefused(index, transit, count)
        }
        relay.locals.spliced(index, session, count, room)
        let (frame, batch) = session.endpoint.splice(relay.locals[index].pointee.slot, count, header: relay.sessions.header,
                                                     control: carrier.control, now: relay.instant)
        relay.budget.hold(frame.headerByteCount, &session.account)
        session.kept.append(keeper, count)
        carrier.inFlight.batch = batch
        carrier.inFlight.frame = Carrier.SplicedFrame(prefix: batch.byteCount - count, byteCount: batch.byteCount, transit: transit)
        guard queue_append_copy(&session.store, relay.arena, relay.sessions.header.baseAddress, frame.headerByteCount) == 0,
              queue_append_outside(&session.store, UInt32(count)) == 0 else {
            relay.events.note(.outOfMemory(session, what: "bytes in flight"))
            relay.sessions.discard(session)  // Its carrier goes with it: nothing of the frame was sent.
            return finishFrame(carrier)
        }
        goOn(carrier)
        relay.locals.armReceive(index)
    }

    /// Hands over what the carrier takes of its spliced frame.
    func goOn(_ carrier: Carrier) {
        guard let batch = carrier.inFlight.batch, let session = carrier.session else { return }
        while let frame = carrier.inFlight.frame, let transit = frame.transit, frame.sent < frame.byteCount {
            let result = frame.sent < frame.prefix ? sendPrefix(carrier, session, batch, frame)
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
                return lost(carrier, reason)
            }
        }
        finishFrame(carrier)
    }

    private func sendPrefix(_ carrier: Carrier, _ session: Session, _ batch: Batch, _ frame: Carrier.SplicedFrame) -> Pipe.Moved {
        var count = 0
        let control = batch.control.count
        if frame.sent < control {
            relay.iovecs[0] = iovec(iov_base: carrier.control.baseAddress! + batch.control.lowerBound + frame.sent,
                                  iov_len: control - frame.sent)
            count = 1
        }
        let skipped = max(0, frame.sent - control)
        var gathered = 0
        count += Int(queue_gather(&session.store, batch.start + UInt64(skipped), frame.prefix - control - skipped,
                                  relay.iovecs + count, UInt32(Policy.iovecMaximum - 1), &gathered))
        return Socket.send(carrier.fd, relay.iovecs, count)
    }

    /// The rest goes by memory, a little later.
    private func abandon(_ carrier: Carrier) {
        if let session = carrier.session { relay.sessions.copyIntoMemory(session) }
        refuse(carrier)
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
        finishSend(carrier, frame.sent)
    }

    func writable(_ carrier: Carrier) {
        carrier.inFlight.send = false
        if carrier.isOver { finishFrame(carrier) } else { goOn(carrier) }
    }
}
