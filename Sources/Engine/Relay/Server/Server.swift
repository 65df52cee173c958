import Control
import Glibc
import Loop
import State
import Time
import Tunnel
import Wire

/// The tele server: accepts carriers, asks its registry which HELLO may have which session, and opens the origin for each
/// stream.
final class Server: Host {
    unowned(unsafe) let relay: RelayProcess
    private var registry: Registry
    private(set) var reverse: ReverseMappings
    /// Where there is one loop only.
    let quotas = StreamQuotas()
    /// Carriers without a session, oldest first.
    private var handshakes: [Carrier] = []
    private(set) var isDraining = false
    /// Of this run; a program that takes over keeps it.
    private var run: UInt64
    private(set) lazy var identity =
        relay.member?.group.identity
        ?? ServerIdentity(
            run: run, place: ServerPlace.number("\(relay.listeners.carrierAddress.map { "\($0)" } ?? "\(relay.configuration.output)")"))

    init(_ relay: RelayProcess) {
        self.relay = relay
        reverse = ReverseMappings(relay)
        run = relay.generator.next()
        let configuration = relay.configuration
        registry = Registry(
            limits: Registry.Limits(
                sessions: configuration.maximumSessions, hold: .seconds(UInt64(configuration.holdSeconds)),
                grantTotal: configuration.memoryByteCount / 2, grantMaximum: configuration.bufferByteCount))
    }

    /// Names are looked up off the loop; the first connections may come at once, so numbers and quick answers are awaited.
    func start() {
        awaitIdleness()
        warnOfStrangers()
        let patience = Clock.now() + Policy.firstLookupMaximum.nanoseconds
        while relay.origins.isLookingUp, Clock.now() < patience {
            Clock.sleep(nanoseconds: 1_000_000)
            for answer in relay.resolver.takeAnswers() { relay.handleLookup(answer) }
        }
    }

    // MARK: Carriers

    /// Carriers have descriptors of their own, so they are accepted also when users have used up theirs.
    func mayAccept(_ purpose: Listeners.Purpose) -> Bool { true }

    func handleAccepted(_ fd: Int32, _ mapping: Mapping?, _ place: UInt16) {
        if let mapping { return reverse.accept(fd, mapping, place) }
        guard let peer = Socket.peerAddress(fd) else { return relay.loop.close(fd) }
        Socket.tune(fd, peer.isLoopback)
        let carrier = relay.carriers.add(fd: fd, peer: peer, state: .awaitingHello)
        if let credentials = relay.credentials {
            guard let channel = credentials.channel() else { return relay.carriers.close(carrier) }
            carrier.transport = .secure(channel)
        }
        admit(carrier)
        relay.carriers.reader.arm(carrier)
    }

    /// It has a while for its HELLO.
    func admit(_ carrier: Carrier) {
        if handshakes.count >= handshakesMaximum, !giveWay(), let newest = handshakes.popLast() { relay.carriers.close(newest) }
        handshakes.append(carrier)
        relay.timers.set(carrier.token(.carrierDeadline), at: carrier.openedAt + Policy.helloMaximum.nanoseconds)
    }

    private var handshakesMaximum: Int { min(Policy.handshakesMaximum, relay.descriptorLimit / Policy.handshakesPart) }

    /// A carrier without a session gives way: the oldest that has said nothing for a while, or the oldest of those that take long.
    /// Never one that says what it must, while it has time: of a crowd that comes back the oldest is the nearest to its end.
    private func giveWay() -> Bool {
        func isOlder(_ carrier: Carrier, than age: Interval) -> Bool { relay.now > carrier.openedAt + age.nanoseconds }
        let place =
            handshakes.firstIndex { $0.arrivedAt == 0 && isOlder($0, than: Policy.silenceGivingWay) }
            ?? handshakes.firstIndex { isOlder($0, than: Policy.slownessGivingWay) }
        if let place { relay.carriers.close(handshakes.remove(at: place)) }
        return place != nil
    }

    /// If nobody gives way yet, who comes next waits.
    func makeRoom() { _ = giveWay() }

    func handleSecured(_ carrier: Carrier, _ channel: SecureChannel) {
        guard let name = relay.credentials?.name(of: channel.peer) else {
            return relay.carriers.security.turnAway(carrier, "its name is not among those that -allow names")
        }
        carrier.peerName = name
        carrier.peerIdentity = channel.peer
    }

    /// A key that is gone, or a name that is not allowed any more, ends its sessions.
    func handleReloaded() {
        guard let credentials = relay.credentials else { return }
        for session in relay.sessions.all { relay.sessions.closeStandby(of: session) }
        for key in registry.sessions(whosePeer: { credentials.name(of: $0) == nil }) {
            guard let session = relay.sessions.find(key) else { continue }
            relay.events.note(.sessionRevoked(session))
            relay.sessions.end(session, .unauthorized, "its key is not accepted any more")
        }
        for session in relay.sessions.all {
            guard let channel = session.carrier?.transport.channel, !credentials.accepts(channel) else { continue }
            relay.events.note(.sessionRevoked(session))
            relay.sessions.end(session, .unauthorized, "its certificate is not accepted any more")
        }
        for carrier in handshakes { relay.carriers.close(carrier) }
        handshakes = []
    }

    var ending: Ending { .finished }

    func handleFailed(_ carrier: Carrier, _ reason: String) {
        handshakes.removeAll { $0 === carrier }
        // A client dials more often than it speaks: one that said nothing did not fail to authenticate.
        guard carrier.arrivedAt > 0, let channel = carrier.transport.channel, !channel.isSecured || carrier.peerName.isEmpty else {
            return relay.events.note(.handshakeFailed(carrier.peer, reason: reason))
        }
        relay.events.note(.unauthenticated(carrier.peer, reason: reason))
    }

    func readHandshake(_ carrier: Carrier) {
        guard carrier.state == .awaitingHello || carrier.state == .standby else { return }
        let bytes = carrier.block.unread
        let decoded: (hello: Hello, byteCount: Int)?
        do throws(ProtocolFault) {
            decoded = try Hello.decode(bytes.bytes)
        } catch {
            // The first flight of TLS: type 22, version 3.x.
            let usesKey = relay.credentials == nil && bytes.count > 1 && bytes[0] == 0x16 && bytes[1] == 3
            let reason = usesKey ? "it uses a key, and this server has none (-key)" : error.rule.description
            relay.events.note(.strangerTurnedAway(carrier.peer, reason: reason))
            return relay.carriers.lost(carrier, error.rule.description)
        }
        guard let (hello, count) = decoded else { return }
        if carrier.state == .awaitingHello, let owner = owner(of: hello) {
            handshakes.removeAll { $0 === carrier }
            return pass(carrier, length: count, to: owner)
        }
        carrier.block.parsed += count
        if carrier.state == .standby {
            relay.sessions.release(standby: carrier)
            carrier.state = .awaitingHello
            carrier.session = nil
        }
        handshakes.removeAll { $0 === carrier }
        relay.timers.cancel(carrier.token(.carrierDeadline))
        let proven = UnsafeRawBufferPointer(rebasing: bytes[..<min(count, Hello.provenByteCount)])
        guard let binding = carrier.binding else { return relay.carriers.lost(carrier, "TLS gives no binding") }
        let verdict = registry.judge(hello, from: carrier.peerIdentity, group: group(carrier), isDraining: isDraining) {
            hello.isProven($0, over: proven, on: binding)
        }
        switch verdict {
        case .begin(let grant): begin(hello, carrier, grant)
        case .resume(let key): establish(relay.sessions.find(key)!, hello, carrier, isNew: false)
        case .standBy(let key) where hello.received > 0: join(relay.sessions.find(key)!, hello, carrier)
        case .standBy(let key): standBy(relay.sessions.find(key)!, hello, carrier)
        case .refuse(let code, let reason): refuse(carrier, hello, code, reason)
        }
    }

    // MARK: Standby carriers

    /// A HELLO without an attempt: the client wants to have this connection at hand.
    private func standBy(_ session: Session, _ hello: Hello, _ carrier: Carrier) {
        // Or whoever has seen it could say it once more.
        guard hello.dataLimit > session.standbyNumber else { return refuse(carrier, hello, .stale, "a newer standby was accepted") }
        session.standbyNumber = hello.dataLimit
        answer(carrier, session)
        guard !carrier.isOver else { return }
        relay.sessions.standBy(carrier, for: session)
        relay.carriers.writer.sendGreeting(carrier)
    }

    /// A HELLO without an attempt that names the epoch of a carrier: the client wants to have this connection as a subflow of it.
    private func join(_ session: Session, _ hello: Hello, _ carrier: Carrier) {
        var isOfCarrier = hello.received == UInt64(session.endpoint.epoch)
        #if CANARIES
        if Canary.selected == .joinsAnyCarrier { isOfCarrier = true }
        #endif
        guard isOfCarrier, let whole = session.carrier, relay.carriers.subflowCount < relay.descriptorLimit / Policy.subflowsPart,
            let subflows = relay.sessions.openSubflows(session, whole), subflows.mayJoin(hello.dataLimit)
        else { return refuse(carrier, hello, .stale, "no such carrier, or no room for one more subflow") }
        answer(carrier, session)
        guard !carrier.isOver else { return }
        subflows.join(carrier, number: hello.dataLimit)
        relay.carriers.writer.sendGreeting(carrier)
    }

    /// WELCOME to a HELLO without an attempt: it proves who answers, and says nothing else.
    private func answer(_ carrier: Carrier, _ session: Session) {
        let welcome = Welcome(
            identity: session.identity, secret: .zero, attempt: 0, epoch: session.endpoint.epoch, received: 0, dataLimit: 0, maximumStreams: 0,
            initialCredit: 0)
        guard let binding = carrier.binding, let bytes = welcome.encoded(provenWith: session.secret, on: binding) else {
            return relay.carriers.lost(carrier, "cannot compute a proof")
        }
        carrier.greeting.bytes += bytes
    }

    /// The client hears it when its own carrier brings nothing any more, and says HELLO there.
    func nudge(_ standby: Carrier) {
        guard standby.greeting.isSent, !standby.inFlight.send else { return }
        var bytes = [UInt8](repeating: 0, count: Specification.controlFrameMaximum)
        let count = bytes.withUnsafeMutableBytes { buffer in
            var writer = ByteWriter(buffer)
            writer.appendPing(token: 0)
            return writer.count
        }
        standby.greeting.bytes += bytes[..<count]
        relay.carriers.writer.sendGreeting(standby)
    }

    // MARK: Sessions that begin and continue

    /// The group that shares a part of a full table: without keys, an IPv4 address, or a /64 of IPv6.
    private func group(_ carrier: Carrier) -> String {
        guard carrier.peerIdentity.isEmpty else { return carrier.peerIdentity }
        return carrier.peer.host.prefix(8).map { String($0, radix: 16) }.joined(separator: ".")
    }

    private func begin(_ hello: Hello, _ carrier: Carrier, _ grant: Int) {
        let limits = Endpoint.Limits(
            retained: relay.configuration.bufferByteCount, received: grant,
            streams: relay.configuration.maximumStreams)
        let session = relay.sessions.add(.server, limits)
        relay.timers.cancel(Operation.idleExit.token())
        let (high, low) = (relay.generator.next(), relay.generator.next())
        session.identity = SessionIdentity(high: high, low: relay.member.map { $0.group.mark(low, for: $0.number) } ?? low)
        session.secret = .random(using: &relay.generator)
        let evicted = registry.admit(
            session.index, session.identity, of: carrier.peerIdentity, group: group(carrier),
            secret: session.secret, attempt: hello.attempt, grant: grant, now: relay.instant)
        if let evicted { evict(evicted) }
        establish(session, hello, carrier, isNew: true)
    }

    private func establish(_ session: Session, _ hello: Hello, _ carrier: Carrier, isNew: Bool) {
        let replayed = session.endpoint.sent - min(session.endpoint.sent, hello.received)
        let agreed: (received: UInt64, dataLimit: UInt64)?
        do throws(ProtocolFault) {
            agreed = try session.endpoint.accept(hello, now: relay.instant)
        } catch {
            refuse(carrier, hello, .protocolViolation, error.rule.description)
            return relay.sessions.violated(session, error)
        }
        guard let agreed else { return refuse(carrier, hello, .stale, "overtaken by its own acknowledgments") }
        if !isNew { registry.resumed(session.index, attempt: hello.attempt) }
        session.peerName = carrier.peerName
        if isNew { setQuota(session) }
        var welcome = Welcome(
            identity: session.identity, secret: isNew ? session.secret : .zero, attempt: hello.attempt,
            epoch: session.endpoint.epoch, received: agreed.received, dataLimit: agreed.dataLimit,
            maximumStreams: UInt64(session.endpoint.limits.streams),
            initialCredit: Specification.initialCreditMaximum)
        welcome.answers = reverse.handleHello(session, hello.origins)
        (welcome.server, welcome.holdSeconds) = (identity, UInt32(relay.configuration.holdSeconds))
        welcome.subflows = UInt8(Specification.subflowsMaximum)
        guard let binding = carrier.binding,
            let bytes = welcome.encoded(provenWith: isNew ? nil : session.secret, on: binding)
        else {
            _ = relay.sessions.attach(carrier, to: session)
            return relay.carriers.lost(carrier, "cannot compute a proof")
        }
        carrier.greeting.bytes += bytes
        let outage = relay.sessions.attach(carrier, to: session)
        relay.carriers.writer.sendGreeting(carrier)
        if let roundTrip = PathFacts(carrier.fd)?.leastRoundTripMicroseconds {
            session.endpoint.pathMeasured(.microseconds(UInt64(roundTrip)))
        }
        relay.events.note(
            isNew
                ? .sessionOpened(session, carrier.peer)
                : .sessionResumed(
                    session, carrier.peer, after: outage, recovery: relay.age(of: carrier.openedAt), replayed: replayed, roundTripMicroseconds: nil))
        scheduleRegistry()
    }

    private func refuse(_ carrier: Carrier, _ hello: Hello, _ code: CloseCode, _ reason: String) {
        relay.events.note(.helloRefused(carrier.peer, code, reason: reason))
        var bytes = [UInt8](repeating: 0, count: Specification.controlFrameMaximum)
        let count = bytes.withUnsafeMutableBytes { buffer in
            var writer = ByteWriter(buffer)
            Refusal(code: code, attempt: hello.attempt, reason: reason, server: identity).encode(into: &writer)
            return writer.count
        }
        carrier.state = .refusing
        carrier.greeting.bytes += bytes[..<count]
        relay.timers.set(carrier.token(.carrierDeadline), at: relay.now + Policy.lastWordsMaximum.nanoseconds)
        relay.carriers.writer.sendGreeting(carrier)
    }

    func handleLost(_ session: Session, _ carrier: Carrier, _ reason: String) {
        relay.events.note(.carrierLost(session, carrier.peer, reason: reason, heldForSeconds: relay.configuration.holdSeconds))
        detach(session)
    }

    private func detach(_ session: Session) {
        relay.sessions.detach(session)
        registry.detached(session.index, isPrecious: session.isPrecious, now: relay.instant)
        session.endpoint.setReceiveLimit(registry.grant(of: session.index), now: relay.instant)
        scheduleRegistry()
    }

    // MARK: Handing over

    func suspend() {
        for carrier in handshakes { relay.carriers.close(carrier) }
        handshakes = []
        for session in relay.sessions.all {
            relay.sessions.closeStandby(of: session)
            guard let carrier = session.carrier else { continue }
            relay.carriers.close(carrier)
            detach(session)
        }
    }

    var isQuiet: Bool { true }

    func resume() { scheduleRegistry() }

    func archive(_ archive: inout StateArchive) throws(StateFault) { try archive.number(&run) }

    func archive(_ session: Session, _ archive: inout StateArchive) throws(StateFault) {
        try registry.archive(session.index, session.identity, secret: session.secret, isPrecious: session.isPrecious, &archive, now: relay.instant)
    }

    func stamp(of session: Session) -> UInt64 { registry.changes << 1 | (session.isPrecious ? 1 : 0) }

    func restored(_ session: Session) {
        session.endpoint.limits.received = registry.grant(of: session.index)
        setQuota(session)
    }

    // MARK: Sessions

    /// The first frame after WELCOME: the peer is live, so the session gets its place and its full quota.
    func handleProven(_ session: Session) {
        guard !session.isProven else { return }
        session.isProven = true
        defer { reverse.handleProven(session) }
        switch registry.proved(session.index, now: relay.instant) {
        case .known:
            break
        case .welcome(let grant, let evicted):
            session.endpoint.setReceiveLimit(grant, now: relay.instant)
            if let evicted { evict(evicted) }
        case .full:
            relay.events.note(.sessionEvicted(session))
            relay.sessions.end(session, .tooManySessions, "too many sessions")
        }
    }

    /// Its users take so much that it needs a larger receive budget.
    func handleShortage(_ session: Session) {
        let isFirst = !registry.hasGrown
        let grant = registry.grow(session.index, now: relay.instant)
        if grant > 0 { session.endpoint.setReceiveLimit(grant, now: relay.instant) }
        if isFirst { relay.timers.set(Operation.grants.token(), at: relay.now + RegistryPolicy.grantKept.nanoseconds) }
    }

    private func shrinkIdle() {
        for key in registry.shrinkIdle(now: relay.instant) {
            relay.sessions.find(key)?.endpoint.setReceiveLimit(registry.grant(of: key), now: relay.instant)
        }
        if registry.hasGrown { relay.timers.set(Operation.grants.token(), at: relay.now + RegistryPolicy.grantKept.nanoseconds) }
    }

    private func evict(_ key: Registry.SessionKey) {
        guard let session = relay.sessions.find(key) else { return }
        relay.events.note(.sessionEvicted(session))
        relay.sessions.discard(session)
    }

    func handleSessionEnded(_ session: Session) {
        awaitIdleness()
        reverse.handleSessionEnded(session)
        registry.forget(session.index)
        #if DEBUG
        if registry.count < 100 { registry.checkInvariants() }
        #endif
    }

    private func awaitIdleness() {
        guard let seconds = relay.configuration.idleExitSeconds else { return }
        relay.timers.set(Operation.idleExit.token(), at: Clock.now() + UInt64(seconds) * 1_000_000_000)
    }

    private func scheduleRegistry() {
        let next = registry.nextTimeout
        guard next != .never else { return relay.timers.cancel(Operation.registry.token()) }
        // Not in this turn: many expire together after a crowd has left.
        relay.timers.set(Operation.registry.token(), at: max(next.nanoseconds, relay.now + 1))
    }

    func handleTimer(_ operation: Operation, _ token: Token) {
        switch operation {
        case .registry:
            for _ in 0..<Policy.expiriesAtOnce {
                guard let key = registry.nextExpired(now: relay.instant) else { break }
                guard let session = relay.sessions.find(key) else { preconditionFailure("a session that nobody has") }
                let since = session.link.downSince ?? relay.now
                relay.events.note(.sessionExpired(session, heldForSeconds: Int(relay.age(of: since) / 1_000_000_000)))
                relay.sessions.discard(session)
            }
            scheduleRegistry()
        case .grants:
            shrinkIdle()
        case .idleExit:
            guard relay.sessions.count == 0 else { return }
            guard relay.member?.hasOthersAtWork != true else { return awaitIdleness() }
            relay.events.note(.idleTooLong)
            relay.request(gently: true)
        default:
            break
        }
    }

    // MARK: The end

    var unreadiness: String? { nil }
    var summary: Int { relay.member?.load ?? relay.sessions.count }
    var summaryWords: String { summary == 1 ? "1 session" : "\(summary) sessions" }

    /// No new session and no new stream; known sessions may still come back.
    func drain() {
        isDraining = true
        relay.listeners.closeToUsers()
    }

    func sayGoodbye() {
        isDraining = true
        relay.listeners.close()
        relay.sessions.sayGoodbye(.stopping)
    }
}
