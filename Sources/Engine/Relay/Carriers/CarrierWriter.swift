import CSlab
import Glibc
import Loop
import Time
import Tunnel

/// Writes carriers: the greeting, then early bytes, then batches, gathered from the session's store. One send at a
/// time.
final class CarrierWriter {
    unowned(unsafe) private let relay: RelayProcess
    private let loop: Loop
    private let sessions: Sessions
    private let security: CarrierSecurity

    init(_ relay: RelayProcess, _ security: CarrierSecurity) {
        (self.relay, self.security) = (relay, security)
        (loop, sessions) = (relay.loop, relay.sessions)
    }

    private var carriers: Carriers { relay.carriers }

    /// Starts the greeting, or goes on with it.
    func sendGreeting(_ carrier: Carrier) {
        guard !carrier.inFlight.send, !carrier.isRefused, !carrier.greeting.isSent, !carrier.isOver, carrier.isClear else { return }
        var count = 0
        // In a packet of its own, which is small: on some paths those of full size are lost, and then the peer would never hear of us.
        if !carrier.greeting.bytes.isEmpty {
            let part = min(carrier.greeting.bytes.count, carrier.control.count)
            carrier.greeting.bytes.withUnsafeBytes { carrier.control.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[..<part])) }
            relay.iovecs[0] = iovec(iov_base: carrier.control.baseAddress, iov_len: part)
            count = 1
        } else if carrier.greeting.earlyCount > 0, let session = carrier.session {
            sessions.copyIntoMemory(session)
            guard !carrier.isOver else { return }
            var gathered = 0
            count += Int(
                queue_gather(
                    &session.store, carrier.greeting.earlyStart, carrier.greeting.earlyCount,
                    relay.iovecs + count, UInt32(Policy.iovecMaximum - count), &gathered))
            pin(carrier, from: carrier.greeting.earlyStart)
        }
        submitSend(carrier, count)
    }

    /// How many bytes may be handed to the kernel now. One stream alone has nobody who waits behind it.
    func room(_ carrier: Carrier, _ session: Session) -> Int {
        if carrier.subflows?.sends == true { return Policy.chunkByteCount }
        guard var window = carrier.window, session.endpoint.streamCount > 1 else { return Policy.batchByteCount }
        guard window.limit != nil || window.isSampleDue(now: relay.instant), let facts = PathFacts(carrier.fd),
            facts.roundTripMicroseconds > 0
        else { return Policy.batchByteCount }
        if window.isSampleDue(now: relay.instant) {
            window.measured(facts.sample(inboundWait: session.endpoint.inboundWait(now: relay.instant)), now: relay.instant)
            chooseCongestion(carrier, isBounded: window.limit != nil, facts)
            session.endpoint.setQuantum(window.quantum)
        }
        defer { carrier.window = window }
        guard window.limit != nil else { return Policy.batchByteCount }
        let held = facts.held(unacknowledged: Socket.heldByteCount(carrier.fd))
        let room = window.room(held, now: relay.instant)
        if room == 0 {
            relay.timers.set(carrier.token(.carrierRoom), at: relay.now + window.retryDelay(held).nanoseconds)
        }
        return min(room, Policy.batchByteCount)
    }

    private func chooseCongestion(_ carrier: Carrier, isBounded: Bool, _ facts: PathFacts) {
        let before = carrier.congestion.choice
        carrier.congestion.measured(
            isBounded: isBounded, sent: UInt64(facts.sentSegments), repeated: UInt64(facts.repeatedSegments),
            now: relay.instant)
        guard carrier.congestion.choice != before else { return }
        if carrier.systemCongestion.isEmpty { carrier.systemCongestion = Socket.congestionControl(carrier.fd) }
        // Only BBR is in the way; where cubic is not to be had, all stays as it is.
        guard carrier.systemCongestion.hasPrefix("bbr") else { return }
        _ = Socket.setCongestionControl(carrier.fd, carrier.congestion.choice == .cubic ? "cubic" : carrier.systemCongestion)
    }

    func handleRoom(_ token: Token) {
        guard let carrier = carriers.find(token), let session = carrier.session, carrier.carriesBytes else { return }
        sessions.markDirty(session)
    }

    /// One send: what has its place in the sequence, about `most` bytes of it, and what is owed besides.
    func submitBatch(_ session: Session, _ carrier: Carrier, most: Int = Policy.batchByteCount) {
        let batch = session.endpoint.nextBatch(limit: most, control: carrier.control, now: relay.instant)
        guard !batch.isEmpty else { return }
        var count = 0
        var isWhole = true
        func gather(_ from: UInt64, _ bytes: Int) {
            guard bytes > 0, isWhole else { return }
            var gathered = 0
            count += Int(
                queue_gather(
                    &session.store, from, bytes, relay.iovecs + count,
                    UInt32(Policy.iovecMaximum - 1 - count), &gathered))
            isWhole = gathered == bytes
        }
        gather(batch.start, batch.rest)
        if isWhole, !batch.control.isEmpty {
            relay.iovecs[count] = iovec(
                iov_base: carrier.control.baseAddress! + batch.control.lowerBound,
                iov_len: batch.control.count)
            count += 1
        }
        gather(batch.start + UInt64(batch.rest), batch.more)
        carrier.inFlight.batch = batch
        if batch.rest + batch.more > 0 { pin(carrier, from: batch.start) }
        submitSend(carrier, count)
    }

    private func submitSend(_ carrier: Carrier, _ count: Int) {
        if let subflows = carrier.subflows, subflows.sends { return finishSend(carrier, subflows.send(relay.iovecs, count)) }
        if let channel = carrier.transport.channel {
            guard channel.seal(relay.iovecs, count, relay) else { return finishRefused(carrier) }
            return security.sendSealed(carrier, channel, mode(carrier))
        }
        carrier.inFlight.send = loop.send(carrier.fd, relay.iovecs, count, carrier.token(.carrierSend), mode(carrier))
        if !carrier.inFlight.send { finishRefused(carrier) }
    }

    /// How the batch of the carrier is sent: where nothing waits behind it, its completion may be late.
    private func mode(_ carrier: Carrier) -> Loop.SendMode {
        guard let batch = carrier.inFlight.batch, batch.byteCount <= Policy.unhurriedMaximum, let session = carrier.session, session.splicing.isEmpty,
            session.endpoint.isLast(batch)
        else { return .waiting }
        // Whoever goes on when this process has died has other carriers.
        return .forgotten
    }

    /// The ring, or memory, has no room: nothing of it was sent. Later, and never in this turn.
    private func finishRefused(_ carrier: Carrier) {
        refuse(carrier)
        finishSend(carrier, 0)
    }

    /// Nothing is sent before the retry timer. The session may become dirty meanwhile: `isReady` is false.
    func refuse(_ carrier: Carrier) {
        carrier.isRefused = true
        carriers.retryLater(carrier)
    }

    func sendCompleted(_ carrier: Carrier, _ result: Int32) {
        carrier.inFlight.send = false
        let error = SystemError(-result)
        if result < 0, !error.isPassing, !error.isShortage {
            if carrier.share == nil { finishSend(carrier, 0) }
            return carrier.isOver ? () : carriers.lost(carrier, error.description)
        }
        let count = max(0, Int(result))
        if let channel = carrier.transport.channel {
            // Sealed bytes go out as they are: what they hold counts when all of them have left.
            if let plain = channel.sent(count, relay) { return finishSend(carrier, plain) }
            // A carrier that was given up sends no more, or it would outlive its cancelled send.
            if carrier.isOver, !carrier.hasLastWords { return finishSend(carrier, 0) }
            return result < 0 && error.isShortage ? carriers.retryLater(carrier) : security.sendSealed(carrier, channel)
        }
        if result < 0, error.isShortage { refuse(carrier) }
        finishSend(carrier, count)
    }

    /// The kernel has `count` bytes of what was handed over, and reads none any more.
    func finishSend(_ carrier: Carrier, _ count: Int) {
        if let share = carrier.share, carrier.greeting.isSent {
            if !carrier.isOver || carrier.hasLastWords { share.carrier.subflows?.sent(carrier, count) }
            return
        }
        let batch = carrier.inFlight.batch
        carrier.inFlight.batch = nil
        if batch != nil || carrier.isOver { unpin(carrier) }
        guard !carrier.isOver else { return }
        if let batch {
            guard let session = carrier.session, session.carrier === carrier else { return }
            session.endpoint.batchSent(batch, count)
            if let subflows = carrier.subflows, !subflows.sends, session.endpoint.isSpread { subflows.beginSending() }
            sessions.markDirty(session)
        } else {
            greetingSent(carrier, count)
        }
    }

    private func greetingSent(_ carrier: Carrier, _ count: Int) {
        let own = min(count, carrier.greeting.bytes.count)
        carrier.greeting.bytes.removeFirst(own)
        carrier.greeting.earlyStart += UInt64(count - own)
        carrier.greeting.earlyCount -= count - own
        if carrier.greeting.isSent { unpin(carrier) }
        if carrier.state == .securing {
            security.sendOwed(carrier)
        } else if !carrier.greeting.isSent {
            if count > 0 || carrier.transport.channel != nil { sendGreeting(carrier) } else { refuse(carrier) }
        } else if carrier.state == .refusing {
            carriers.closeGently(carrier)
        } else if let session = carrier.session, session.carrier === carrier {
            session.endpoint.greetingSent()
            sessions.markDirty(session)
        } else if let session = carrier.session, carrier.state == .subflow {
            sessions.markDirty(session)
        }
    }

    /// The session's store is read from `offset` on until the send completes, or all of the greeting has left, whoever
    /// owns the session then.
    func pin(_ carrier: Carrier, from offset: UInt64) {
        if carrier.inFlight.pinnedFrom == nil { carrier.session?.pinning.append(carrier) }
        carrier.inFlight.pinnedFrom = offset
    }

    func unpin(_ carrier: Carrier) {
        guard carrier.inFlight.pinnedFrom != nil else { return }
        carrier.inFlight.pinnedFrom = nil
        guard let session = carrier.session else { return }
        session.pinning.removeAll { $0 === carrier }
        if session.isEnded { sessions.freeStore(session) } else { sessions.markDirty(session) }
    }
}
