import Control
import CSlab
import Glibc
import Loop
import State
import Time
import Tunnel
import Wire

/// All sessions of the process: from waiting bytes to frames to batches, and what becomes of a session.
final class Sessions {
    unowned(unsafe) let relay: RelayProcess
    private var table = SlotTable<Session>()
    /// Sessions with work in this iteration.
    private var dirty: [Session] = []
    /// Sessions that have had their share of this iteration, and continue in the next.
    private var postponed: [Session] = []
    /// A client's pending streams wait for a peer to be heard. A stored flag, because every read asks.
    var awaitsLife = false
    /// Of sessions that have ended.
    private var ended: [String: Traffic.Count] = [:]
    /// Scratch for the header of one frame.
    let header = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.headerMaximum, alignment: 8)

    init(_ relay: RelayProcess) { self.relay = relay }

    deinit { header.deallocate() }

    var all: [Session] { table.all }
    var count: Int { table.count }

    func find(_ token: Token) -> Session? { table.find(token) }
    /// The session that a registry knows by its index.
    func find(_ index: UInt32) -> Session? { table.find(index) }

    func add(_ role: Endpoint.Role, _ limits: Endpoint.Limits) -> Session {
        let session = table.insert { index, generation in
            Session(index: index, generation: generation, role: role, limits: limits, hashSeed: relay.generator.next(), now: relay.now, ledger: relay.ledger)
        }
        relay.budget.open(&session.account)
        return session
    }

    // MARK: Work

    /// What each client, by the name that it authenticated as, has brought and taken.
    var clients: [String: Traffic.Count] {
        var sums = ended
        for session in table.all where !session.peerName.isEmpty { sums[session.peerName, default: Traffic.Count()].add(count(session, open: 1)) }
        return sums
    }

    /// What clients have brought and taken in sessions that have ended.
    func archiveClients(_ archive: inout StateArchive) throws(StateFault) {
        var list = ended.map { ($0.key, $0.value) }
        try archive.list(&list, most: Policy.clientsMaximum, blank: ("", Traffic.Count())) { (entry, archive) throws(StateFault) in
            try archive.text(&entry.0, most: RegistryPolicy.nameMaximum)
            try archive.counter(&entry.1.read)
            try archive.counter(&entry.1.taken)
            try archive.counter(&entry.1.opened)
        }
        if !archive.isSaving { ended = Dictionary(list) { first, _ in first } }
    }

    private func count(_ session: Session, open: Int) -> Traffic.Count {
        Traffic.Count(read: session.endpoint.payloadSent, taken: session.endpoint.payloadTaken, opened: 1, open: open)
    }

    private func remember(_ session: Session) {
        guard !session.peerName.isEmpty, ended[session.peerName] != nil || ended.count < Policy.clientsMaximum else { return }
        ended[session.peerName, default: Traffic.Count()].add(count(session, open: 0))
    }

    func markDirty(_ session: Session) {
        guard !session.isDirty else { return }
        session.isDirty = true
        dirty.append(session)
    }

    func postpone(_ session: Session) { postponed.append(session) }

    /// A new iteration.
    func beginTurn() {
        guard hasPostponed else { return }
        for session in postponed { markDirty(session) }
        postponed.removeAll(keepingCapacity: true)
    }

    var hasWork: Bool { !dirty.isEmpty }
    var hasPostponed: Bool { !postponed.isEmpty }

    func flush() {
        guard hasWork else { return }
        var next = 0
        while next < dirty.count {
            let session = dirty[next]
            session.isDirty = false
            relay.ledger?.attend(to: session)
            if !session.isEnded { pump(session) }
            next += 1
        }
        dirty.removeAll(keepingCapacity: true)
    }

    /// Starts the next send, releases what was acknowledged, wakes readers.
    private func pump(_ session: Session) {
        if let carrier = session.carrier {
            // While a send is under way nothing takes its place in the sequence: what waits can still be reordered.
            if session.turns > 0, session.endpoint.unsentByteCount == 0 { spliceOnce(session, carrier) }
            if carrier.isReady {
                let room = relay.carriers.writer.room(carrier, session)
                if session.turns == 0 { sequence(session, most: room) }
                if !session.isEnded, session.endpoint.wantsBatch(now: relay.instant) {
                    relay.carriers.writer.submitBatch(session, carrier, most: room)
                    if session.turns == 0 { session.turns = session.splicing.count }
                }
            }
        } else {
            sequence(session, most: Policy.detachedBatchByteCount)
        }
        guard !session.isEnded else { return }
        releaseAcknowledged(session)
        if let carrier = session.carrier, !session.splicing.isEmpty, !session.endpoint.hasWaiting {
            _ = relay.sendSplice.splice(session, carrier, most: Policy.spliceByteCount, rounds: .max)
        }
        guard !session.isEnded else { return }
        session.age.note(entered: session.account.entered, left: session.account.left, now: relay.instant)
        relay.locals.reader.wake(session)
        schedule(session)
        session.checkInvariants()
    }

    /// Between two batches of others each of those who are spliced has one short turn.
    private func spliceOnce(_ session: Session, _ carrier: Carrier) {
        let rounds = session.turns
        session.turns = 0
        let left = relay.sendSplice.splice(session, carrier, most: Policy.spliceShareMinimum, rounds: rounds)
        // The carrier takes no more now: they go on when it does.
        if !carrier.isReady { session.turns = left }
    }

    /// Gives waiting bytes their place in the sequence.
    private func sequence(_ session: Session, most: Int) {
        while session.endpoint.unsentByteCount < most {
            let room = most - session.endpoint.unsentByteCount
            guard let frame = session.endpoint.nextFrame(into: header, payloadMaximum: room, now: relay.instant) else { return }
            var failed = queue_append_copy(&session.store, relay.arena, header.baseAddress, frame.headerByteCount)
            relay.budget.hold(frame.headerByteCount, &session.account)
            if frame.payloadByteCount > 0, failed == 0 {
                failed = movePayload(of: frame.owner, frame.payloadByteCount, to: session)
            }
            if frame.isOver { relay.locals.close(frame.owner, failed == 0 ? .orderly : .reset) }
            guard failed == 0 else {
                relay.events.note(.outOfMemory(session, what: "bytes in flight"))
                return end(session, .exhausted, "out of memory")
            }
        }
    }

    private func movePayload(of owner: StreamOwner, _ count: Int, to session: Session) -> Int32 {
        let user = relay.locals[owner]
        let failed = queue_move(&session.store, &user.pointee.inbound, relay.arena, count, Policy.copyBelow)
        if failed == 0 { relay.budget.place(count, &session.account) }
        if user.pointee.life.inward == .broken, user.pointee.inboundCount == 0 {
            session.endpoint.reset(user.pointee.slot, .reset, now: relay.instant)
            relay.locals.close(owner, .reset)
        } else if user.pointee.life.mayReceive {
            relay.locals.reader.readAgain(owner)  // It may have stood at its share.
        }
        return failed
    }

    private func releaseAcknowledged(_ session: Session) {
        var through = min(session.endpoint.acknowledged, session.endpoint.cursor)
        #if CANARIES
        if Canary.selected == .earlyRelease { through = session.endpoint.cursor }
        #endif
        for carrier in session.pinning { through = min(through, carrier.inFlight.pinnedFrom ?? .max) }
        guard through > session.store.head else { return }
        relay.budget.release(Int(through - session.store.head), &session.account)
        queue_release(&session.store, relay.arena, through)
        session.kept.release(session.store, to: relay.pipes)
    }

    /// All bytes of the session lie in memory, and its users are read into it.
    func copyIntoMemory(_ session: Session) {
        relay.sendSplice.stopAll(of: session)
        if let carrier = session.carrier { relay.sendSplice.dropTransit(carrier) }
        guard !session.kept.copyIntoMemory(&session.store, relay.arena, relay.pipes), !session.isEnded else { return }
        relay.events.note(.outOfMemory(session, what: "bytes in flight"))
        discard(session)
    }

    // MARK: Time

    /// The session's timer, if it must come up earlier than it would.
    private func schedule(_ session: Session) {
        var deadline = session.endpoint.nextTimeout.nanoseconds
        // What is due and cannot be sent, because the ring has no room or the greeting has not left, would be due again at once, for ever.
        if deadline <= relay.now, session.carrier?.isReady != true { deadline = relay.now + Policy.retryDelay.nanoseconds }
        guard deadline < session.timerAt else { return }
        session.timerAt = deadline
        relay.timers.set(session.token(.sessionTimeout), at: deadline)
    }

    func handleTimeout(_ token: Token) {
        guard let session = table.find(token) else { return }
        relay.ledger?.attend(to: session)
        session.timerAt = .max
        if session.endpoint.isSilenceSuspicious(now: relay.instant), let roundTrip = roundTripThatExplains(session) {
            session.endpoint.bePatient(until: relay.instant + Policy.patience, roundTrip: .microseconds(UInt64(roundTrip)))
        }
        switch session.endpoint.handleTimeout(now: relay.instant) {
        case .unchanged: break
        case .late: late(session)
        case .inDoubt: inDoubt(session)
        case .suspected: suspected(session)
        }
        markDirty(session)
    }

    /// A slow path explains the silence of each of the carrier's connections that wait for an answer: microseconds, the longest. One of them that
    /// is dead is enough for nothing to be read any more.
    private func roundTripThatExplains(_ session: Session) -> UInt32? {
        let waiting: [PathFacts] = session.carrier?.facts.filter { $0.unacknowledged > 0 } ?? []
        return waiting.allSatisfy(\.explainsSilence) ? waiting.map(\.roundTripMicroseconds).max() : nil
    }

    /// An answer is late, and there is another path: the session continues there, unless TCP knows that this one works, by any connection.
    private func late(_ session: Session) {
        let waiting: [PathFacts] = session.carrier?.facts.filter { $0.unacknowledged > 0 } ?? []
        let isSilent = waiting.allSatisfy { facts in
            Interval.milliseconds(UInt64(facts.silenceMilliseconds)) >= Interval.microseconds(UInt64(facts.roundTripMicroseconds)) * 2
        }
        guard !waiting.isEmpty, isSilent else { return }
        relay.client?.handleLate(session)
        if let standby = session.standby { relay.server?.nudge(standby) }
    }

    // MARK: Standby carriers

    /// The session can continue over it at once. One that it had before is closed.
    func standBy(_ carrier: Carrier, for session: Session) {
        let old = session.standby
        carrier.session = session
        carrier.state = .standby
        carrier.hasStoodBy = true
        session.standby = carrier
        if let old, old !== carrier { relay.carriers.close(old) }
        Socket.keepAlive(carrier.fd, idle: Policy.standbyIdleSeconds)
        session.endpoint.watchLateness(true)
        markDirty(session)
    }

    /// It is the session's standby no more: it says HELLO, or ends.
    func release(standby carrier: Carrier) {
        guard let session = carrier.session, session.standby === carrier else { return }
        session.standby = nil
        session.endpoint.watchLateness(false)
    }

    func closeStandby(of session: Session) {
        guard let standby = session.standby else { return }
        release(standby: standby)
        relay.carriers.close(standby)
    }

    func standbyLost(_ session: Session, _ carrier: Carrier) {
        if session.standby === carrier {
            session.standby = nil
            session.endpoint.watchLateness(false)
        }
        relay.client?.handleStandbyLost(session)
    }

    // MARK: Doubts

    /// The answer that is due does not come, and TCP does not explain it: a probe, beside the carrier.
    private func inDoubt(_ session: Session) {
        session.link = .inDoubt
        relay.client?.handleInDoubt(session)
    }

    /// A connect to the peer was answered. A carrier in doubt that is silent still is worse than the path.
    func probeAnswered(_ session: Session) {
        if session.endpoint.probeAnswered() { suspected(session) }
    }

    /// No answer, though the path works, or for too long.
    private func suspected(_ session: Session) {
        guard let carrier = session.carrier else { return }
        copyIntoMemory(session)
        guard !session.isEnded else { return }
        session.link = .suspected(since: relay.now)
        relay.events.note(.carrierSuspected(session, carrier.peer))
        relay.locals.reader.readOn(session)
        relay.client?.handleSuspected(session)
    }

    /// The answer came: a doubt was wrong.
    func noteLife(_ session: Session) {
        let unnoticed = session.endpoint.takeInboundOutage()
        session.carrier?.follow(roundTrip: session.endpoint.plausibleRoundTrip, unacknowledged: session.endpoint.retainedByteCount)
        if unnoticed > .zero { relay.events.note(.carrierWasSilent(session, for: unnoticed.nanoseconds)) }
        if awaitsLife { relay.client?.handleLife(session) }
        guard session.link.hasCarrier, session.link != .attached, !session.endpoint.isInDoubt else { return }
        if case .suspected(let since) = session.link { relay.events.note(.carrierRecovered(session, after: relay.age(of: since))) }
        session.link = .attached
        relay.client?.handleRecovered(session)
    }

    // MARK: Carriers

    /// `carrier` owns the session from now on. Returns the outage's length, from its first sign.
    func attach(_ carrier: Carrier, to session: Session) -> UInt64 {
        copyIntoMemory(session)
        guard !session.isEnded else {
            relay.carriers.close(carrier)
            return 0
        }
        let old = session.carrier
        carrier.session = session
        carrier.state = .established
        session.carrier = carrier
        carrier.widenReceive()
        if let old { relay.carriers.close(old) }
        if carrier.greeting.isSent, !carrier.inFlight.send { session.endpoint.greetingSent() }
        let since = session.link.downSince ?? relay.now
        session.link = .attached
        markDirty(session)
        return relay.age(of: since)
    }

    /// The session has no carrier; users only see slowness.
    func detach(_ session: Session) {
        copyIntoMemory(session)
        session.endpoint.carrierLost()
        session.carrier = nil
        session.link = .detached(since: session.link.downSince ?? relay.now)
        relay.locals.reader.readOn(session)
        markDirty(session)
    }

    // MARK: Subflows

    /// The carrier has subflows from now on, or has them already. Nothing is spliced past them.
    func openSubflows(_ session: Session, _ carrier: Carrier) -> Subflows? {
        if carrier.subflows == nil {
            copyIntoMemory(session)
            guard !session.isEnded, !carrier.isOver else { return nil }
            carrier.subflows = Subflows(relay, carrier)
        }
        return carrier.subflows
    }

    /// The peer sends its bytes over subflows from here on, and so does a server. False: it may not, and the session has ended.
    func spread(_ session: Session, _ carrier: Carrier) -> Bool {
        guard let subflows = carrier.subflows, !subflows.all.isEmpty, !subflows.receives, carrier.block.unread.isEmpty else {
            violated(session, ProtocolFault("SUBFLOWS where it must not be"))
            return false
        }
        carrier.passes = false
        subflows.beginReceiving()
        session.endpoint.spread()
        return !session.isEnded
    }

    // MARK: Streams of another session

    /// Streams of `old` that no carrier ever heard of go on in `new` with all their bytes, in their order, as far as it has room. Returns how
    /// many. `isMeant`: of a stream's socket. `takesSilent`: also those of which the peer knows no more than that they are there; it may have
    /// connected them to an origin, which sees them end.
    @discardableResult
    func carryOver(
        from old: Session, to new: Session, takesSilent: Bool = false, where isMeant: (UnsafeMutablePointer<LocalSocket>) -> Bool = { _ in true }
    ) -> Int {
        var unopened: [(order: UInt64, owner: UInt32)] = []
        old.endpoint.forEachUnopened { order, owner in if isMeant(relay.locals[owner]) { unopened.append((order, owner)) } }
        if takesSilent { old.endpoint.forEachSilent { order, owner in unopened.append((order, owner)) } }
        var carried = 0
        for (_, index) in unopened.sorted(by: { $0.order < $1.order }) where new.endpoint.canOpen {
            let user = relay.locals[index]
            let slotThere = user.pointee.slot
            let target =
                old.endpoint.isUnopened(slotThere)
                ? old.endpoint.forget(unopened: slotThere) : old.endpoint.leave(silent: slotThere, now: relay.instant)
            let slot = new.endpoint.open(owner: index, target: target, now: relay.instant)
            relay.locals.move(index, from: old, to: new, slot)
            if user.pointee.inboundCount > 0 { new.endpoint.write(slot, user.pointee.inboundCount) }
            if user.pointee.life.inward == .ended { new.endpoint.finish(slot) }
            carried += 1
        }
        if carried > 0 {
            markDirty(new)
            markDirty(old)
        }
        return carried
    }

    // MARK: Ends

    func violated(_ session: Session, _ fault: ProtocolFault) {
        relay.events.note(.protocolBroken(session, rule: fault.rule))
        end(session, .protocolViolation, fault.rule)
    }

    func peerClosed(_ session: Session, _ code: CloseCode, _ reason: String) {
        relay.events.note(.sessionClosedByPeer(session, code, reason: reason))
        // What the peer sent in order before it closed was delivered to us, and is the users'.
        discard(session, isComplete: session.endpoint.retainedByteCount == 0, waits: true)
    }

    /// Ends the session from our side, with a word to the peer if a carrier is up.
    func end(_ session: Session, _ code: CloseCode, _ reason: StaticString) {
        guard !session.isEnded else { return }
        session.endpoint.close(code, reason)
        if let carrier = session.carrier, carrier.isReady { relay.carriers.writer.submitBatch(session, carrier) }
        discard(session)
    }

    /// Ends the session's users, drops its carriers and bytes. Never a clean end over missing bytes.
    func discard(_ session: Session, isComplete: Bool = false, waits: Bool = false) {
        guard !session.isEnded else { return }
        session.isEnded = true
        remember(session)
        relay.host.handleSessionEnded(session)
        relay.locals.endAll(of: session, isComplete: isComplete, waits: waits)
        closeStandby(of: session)
        if let carrier = session.carrier { relay.carriers.closeGently(carrier) }
        session.carrier = nil
        relay.timers.cancel(session.token(.sessionTimeout))
        freeStore(session)
        table.remove(session.index)
        relay.budget.close(&session.account)
    }

    /// Frees the session's bytes when no operation reads them any more.
    func freeStore(_ session: Session) {
        guard session.pinning.isEmpty else { return }
        relay.budget.releaseAll(&session.account)
        queue_clear(&session.store, relay.arena)
        session.kept.release(session.store, to: relay.pipes)
    }

    // MARK: The end of the process

    /// Each peer is told that its session is over; what is open is reset.
    func sayGoodbye(_ code: CloseCode) {
        for session in table.all {
            session.endpoint.close(code, "the process was told to stop")
            relay.locals.endAll(of: session, isComplete: false, waits: false)
            markDirty(session)
        }
    }

    /// Everything was delivered and acknowledged.
    var isIdle: Bool { !table.all.contains(where: \.isPrecious) }

    /// Every peer that can hear has been told.
    var closeSent: Bool {
        !table.all.contains {
            $0.carrier?.state == .established && (!$0.endpoint.isClosed || $0.carrier!.inFlight.send || $0.carrier!.subflows?.hasUnsent == true)
        }
    }
}
