import Control
import CSlab
import Glibc
import Loop
import State
import Time
import Tunnel
import Wire

/// The tele client: accepts users, opens a stream for each on the warm carrier, and does what its dialer says. What it says to
/// the server on a fresh carrier is in `ClientHandshake`.
final class Client: Host {
    unowned(unsafe) let relay: RelayProcess
    private(set) var session: Session
    var dialer: Dialer<Address>
    var candidates: [Dialer<Address>.CandidateID: Carrier] = [:]
    /// What is dialled: the server's name, or the proxy's.
    let server: ResolvedName
    /// The proxy's, as read last.
    private var proxyCredentials: ProxyHandshake.Credentials?
    /// What the server has said to each of this side's origins, by name.
    var answers: [String: Welcome.OriginAnswer?] = [:]
    /// Users who say where they want to go.
    let requests: ProxyRequests
    /// Whose word ends the session.
    var home = SessionHome<Address>()
    /// The local address from which the server is reached, when the network last changed.
    var route: Address?
    /// The last failure that was told.
    var lastFailure = ""
    /// The server said that it does not know the session.
    var wasUnknown = false
    var only = SingleStream.none
    /// Since there is no carrier: when that was noticed first, when the port began to refuse, and lasting failures in a row.
    private var failing: (since: UInt64, refusedSince: UInt64?, lasting: Int)?
    /// There was a carrier once.
    private var hasReached = false
    /// It ends for this.
    var givenUp: StartFault?

    /// The one user of `Configuration.stream`.
    enum SingleStream {
        case none
        case open(UInt32, ResetCode?)
        case gone(Ending)
    }

    init(_ relay: RelayProcess) throws(StartFault) {
        self.relay = relay
        requests = try ProxyRequests(relay)
        let configuration = relay.configuration
        server = ResolvedName(configuration.proxy?.address ?? configuration.output)
        proxyCredentials = try configuration.proxy?.credentials()
        session = Client.makeSession(relay)
        dialer = Client.makeDialer(relay)
    }

    private static func makeDialer(_ relay: RelayProcess, attempt: UInt64 = 0) -> Dialer<Address> {
        Dialer(isSecure: relay.credentials != nil, isProxied: relay.configuration.proxy != nil, attempt: attempt, now: relay.instant)
    }

    private static func makeSession(_ relay: RelayProcess) -> Session {
        let configuration = relay.configuration
        let limits = Endpoint.Limits(
            retained: configuration.bufferByteCount,
            received: min(configuration.bufferByteCount, configuration.memoryByteCount / 4),
            streams: configuration.maximumStreams)
        return relay.sessions.add(.client, limits)
    }

    func start() {
        if !server.addresses.isEmpty { dialer.handleAddresses(server.addresses, now: relay.instant) }
        lookUpIfUseful()
        route = server.addresses.first.flatMap { Socket.source(to: $0) }
        run()
        guard let stream = relay.configuration.stream else { return }
        Socket.adopt(stream.fd)
        add(stream.fd, target: Mapping(name: stream.name, address: relay.configuration.output).target, 0)
    }

    // MARK: Dialling

    /// Does what the dialer says, and asks again when it wants to be asked.
    func run() {
        guard !relay.handover.isUnderWay else { return }
        while let action = dialer.nextAction() { act(action) }
        dialer.checkInvariants()
        let next = dialer.nextTimeout
        if next == .never {
            relay.timers.cancel(Operation.dial.token())
        } else {
            relay.timers.set(Operation.dial.token(), at: next.nanoseconds)
        }
    }

    private func act(_ action: Dialer<Address>.Action) {
        switch action {
        case .connect(let id, let address):
            connect(id, address)
        case .secure(let id):
            if let carrier = candidates[id] { secure(carrier) }
        case .greet(let id, let attempt):
            if let carrier = candidates[id] { greet(carrier, attempt) }
        case .abandon(let id, let reason):
            guard let carrier = candidates.removeValue(forKey: id) else { return }
            if reason == .unanswered { noteFailure(unanswered(carrier)) }
            relay.carriers.close(carrier)
        case .keep(let id):
            if let offer = candidates[id]?.offer { session.endpoint.keep(offer) }
        case .withdrawOffers:
            session.endpoint.withdrawOffers()
            relay.sessions.markDirty(session)
        }
    }

    private func connect(_ id: Dialer<Address>.CandidateID, _ address: Address) {
        do throws(SystemError) {
            let carrier = relay.carriers.add(fd: try Socket.dialling(address), peer: address, state: .connecting)
            if let count = dialer.segmentByteCount, !address.isLoopback { carrier.limitSegments(count) }
            carrier.candidate = id
            carrier.widenReceive()
            candidates[id] = carrier
            if !relay.carriers.connect(carrier, to: address) { relay.carriers.lost(carrier, "out of memory") }
        } catch {
            noteFailure(unreachable(error))
            dialer.handleFailed(id, now: relay.instant)
        }
    }

    private func unanswered(_ carrier: Carrier) -> ReachFailure {
        guard let proxy = relay.configuration.proxy, carrier.state == .tunnelling else { return unreachable(SystemError(ETIMEDOUT)) }
        return ReachFailure("the proxy \(proxy.address) does not answer: is it \(proxy.kind == .http ? "an HTTP" : "a SOCKS5") proxy?")
    }

    /// What is dialled did not answer, or refused.
    private func unreachable(_ error: SystemError) -> ReachFailure {
        guard let proxy = relay.configuration.proxy else { return ReachFailure(error.whenConnecting) }
        return ReachFailure("the proxy \(proxy.address) cannot be reached: \(error.whenConnecting)")
    }

    func handleTimer(_ operation: Operation, _ token: Token) {
        lookUpIfUseful()
        guard operation == .dial, !relay.handover.isUnderWay else { return }
        let (wasSmall, wasPausing) = (dialer.segmentByteCount != nil, dialer.isPausing)
        dialer.handleTimeout(now: relay.instant, using: &relay.generator)
        noteSegments(wasSmall)
        if dialer.isPausing, !wasPausing { relay.events.note(.pausesForBan(seconds: DialPolicy.banPause.nanoseconds / 1_000_000_000)) }
        run()
    }

    func handleConnected(_ carrier: Carrier, _ error: SystemError?) {
        if let error {
            guard error.code == ETIMEDOUT, candidates.removeValue(forKey: carrier.candidate) != nil else {
                return relay.carriers.lost(carrier, unreachable(error).reason)
            }
            dialer.handleUnanswered(carrier.candidate)
            relay.carriers.close(carrier)
            return noteFailure(unreachable(error))
        }
        guard let proxy = relay.configuration.proxy else { return reached(carrier) }
        let handshake = proxy.handshake(to: relay.configuration.output, proxyCredentials)
        carrier.state = .tunnelling
        carrier.proxy = handshake
        tell(carrier, handshake.greeting)
        relay.carriers.reader.arm(carrier)
    }

    /// The next bytes for the proxy, which answers before it gets more.
    private func tell(_ carrier: Carrier, _ bytes: [UInt8]) {
        carrier.greeting = Carrier.Greeting(bytes: bytes)
        relay.carriers.writer.sendGreeting(carrier)
    }

    /// The proxy has said something.
    func readProxy(_ carrier: Carrier) {
        guard carrier.greeting.isSent, !carrier.inFlight.send, let step = carrier.proxy?.take(carrier.block.unread) else {
            return relay.carriers.lost(carrier, "the proxy answers before it is asked")
        }
        carrier.block.parsed = carrier.block.filled
        switch step {
        case .send(let bytes): tell(carrier, bytes)
        case .more: break
        case .connected:
            carrier.proxy = nil
            reached(carrier)
        case .failed(let failure): fail(carrier, ReachFailure(failure))
        }
    }

    /// There is a connection to the server.
    private func reached(_ carrier: Carrier) {
        carrier.state = .connected
        relay.carriers.reader.arm(carrier)
        relay.sessions.probeAnswered(session)
        dialer.handleConnected(carrier.candidate, now: relay.instant)
        run()
    }

    private func secure(_ carrier: Carrier) {
        guard let channel = relay.credentials?.channel() else { return relay.carriers.lost(carrier, "out of memory") }
        relay.carriers.security.begin(carrier, channel)
    }

    func handleHeard(_ carrier: Carrier) { dialer.handleHeard(carrier.candidate, now: relay.instant) }

    /// HELLO follows at once, in one flight with the end of the handshake.
    func handleSecured(_ carrier: Carrier, _ channel: SecureChannel) {
        guard let name = relay.credentials?.name(of: channel.peer) else {
            return relay.carriers.security.turnAway(carrier, "its certificate has a name that -allow does not")
        }
        carrier.peerName = name
        carrier.state = .connected
        dialer.handleSecured(carrier.candidate, now: relay.instant)
        run()
    }

    /// The next carrier uses them. A server that is not trusted any more keeps no carrier, and its users wait for one that is.
    func handleReloaded() {
        guard let carrier = session.carrier, let channel = carrier.transport.channel, let credentials = relay.credentials,
            !credentials.accepts(channel), case .certificates = relay.configuration.security
        else { return }
        relay.carriers.lost(carrier, "the server's certificate is not accepted any more")
    }

    /// The proxy's password, as its file has it now.
    func readProxyCredentials() throws(StartFault) -> ProxyHandshake.Credentials? { try relay.configuration.proxy?.credentials() }

    /// For the next attempt.
    func use(_ credentials: ProxyHandshake.Credentials?) { proxyCredentials = credentials }

    /// Links, addresses or routes changed, or time was lost.
    func pathMayHaveChanged() {
        server.forgetQuestion()
        if !dialer.isSeeking {
            session.endpoint.doubt(now: relay.instant)
            relay.sessions.markDirty(session)
        }
        dialer.handlePathChanged(now: relay.instant)
        lookUpIfUseful()
        run()
    }

    /// Container hosts add and remove links many times a second: only what changes the way to the server means anything to a carrier.
    func networkChanged() {
        let route = (session.carrier?.peer ?? server.addresses.first).flatMap { Socket.source(to: $0) }
        defer { self.route = route }
        if route != self.route { dialer.handleRouteChanged() }
        // A pause that a firewall's ban asks for must outlast links that come and go elsewhere.
        if route != self.route || dialer.isSeeking && !dialer.isPausing { pathMayHaveChanged() }
    }

    /// A new carrier is wanted, though the old one may work.
    func reconnect() {
        dialer.handlePathChanged(now: relay.instant)
        dialer.handleSuspected(now: relay.instant)
        run()
    }

    // MARK: Losses

    func handleInDoubt(_ session: Session) { handleSuspected(session) }

    func handleSuspected(_ session: Session) {
        let wasSmall = dialer.segmentByteCount != nil
        dialer.handleSuspected(isFruitless: session.endpoint.isFruitless, now: relay.instant)
        noteSegments(wasSmall)
        run()
    }

    private func noteSegments(_ wasSmall: Bool) {
        guard !wasSmall, let count = dialer.segmentByteCount else { return }
        relay.events.note(.usesSmallSegments(count))
    }

    func handleRecovered(_ session: Session) {
        home.handleRecovered()
        dialer.handleRecovered()
        run()
    }

    func handleLost(_ session: Session, _ carrier: Carrier, _ reason: String) {
        relay.events.note(.carrierLost(session, carrier.peer, reason: reason, heldForSeconds: nil))
        detach()
        run()
    }

    private func detach() {
        let isFruitless = session.endpoint.isFruitless
        relay.sessions.detach(session)
        home.handleCarrierLost()
        dialer.handleCarrierLost(isFruitless: isFruitless, now: relay.instant)
    }

    // MARK: Handing over

    func suspend() {
        requests.closeAll()
        let carriers = candidates
        candidates = [:]
        for (id, carrier) in carriers {
            relay.carriers.close(carrier)
            dialer.handleFailed(id, now: relay.instant)
        }
        session.endpoint.withdrawOffers()
        guard let carrier = session.carrier else { return }
        relay.carriers.close(carrier)
        detach()
    }

    var isQuiet: Bool { requests.isQuiet }

    func resume() { run() }

    /// Another configuration has other origins for users of the server, which learns them by HELLO.
    func handleOriginsChanged() { if session.link.hasCarrier { reconnect() } }

    func archive(_ session: Session, _ archive: inout StateArchive) throws(StateFault) {
        var (attempt, address) = (dialer.attempt, home.address)
        try archive.counter(&attempt)
        try archive.optional(&address, blank: Address(path: "")) { (address, archive) throws(StateFault) in try archive.address(&address) }
        guard !archive.isSaving else { return }
        dialer = Client.makeDialer(relay, attempt: attempt)
        home = SessionHome(address)
    }

    /// Replaces the session that was made at the start.
    func restored(_ restored: Session) {
        let unused = session
        session = restored
        relay.sessions.discard(unused)
        if session.endpoint.isEstablished { noteReached() }
    }

    func handleFailed(_ carrier: Carrier, _ reason: String) { failed(carrier, ReachFailure(explained(reason, carrier))) }

    private func fail(_ carrier: Carrier, _ failure: ReachFailure) {
        relay.carriers.close(carrier)
        failed(carrier, failure)
    }

    private func failed(_ carrier: Carrier, _ failure: ReachFailure) {
        guard candidates.removeValue(forKey: carrier.candidate) != nil else { return }
        // What does not pass by itself is not asked twenty times a second, as long as nobody has anything to lose.
        let cause: Dialer<Address>.Failure = failure.isLasting && !hasReached ? .lasting : failure.kind == .refused ? .refused : .passing
        dialer.handleFailed(carrier.candidate, cause, now: relay.instant)
        noteFailure(failure)
        run()
    }

    /// The server lost or ended the session. Streams that no carrier ever heard of go on in a new one with all their bytes;
    /// the others' users are reset.
    func handleSessionEnded(_ lost: Session) {
        guard lost === session, !relay.stopping.isClosing else { return }
        session = Client.makeSession(relay)
        let carried = relay.sessions.carryOver(from: lost, to: session)
        home = SessionHome()
        if wasUnknown { relay.events.note(.sessionLost(lost, carriedOver: carried)) }
        wasUnknown = false
        dialer.handleSessionReplaced(now: relay.instant)
        run()
        relay.sessions.markDirty(session)
    }

    // MARK: The end

    var unreadiness: String? {
        guard case .detached(let since) = session.link else { return nil }
        let seconds = (relay.now - min(relay.now, since)) / 1_000_000_000
        return "no carrier for \(seconds) s" + (lastFailure.isEmpty ? "" : ": \(lastFailure)")
    }

    var summary: Int { !session.link.hasCarrier ? 0 : session.link.isDown ? 1 : 2 }
    var summaryWords: String { ["no carrier, users wait", "carrier suspected", "carrier up"][summary] }

    func drain() {
        relay.listeners.close()
        // Users of the server go to another client, or wait for one.
        if !relay.configuration.reverseMappings.isEmpty { reconnect() }
    }

    func sayGoodbye() {
        relay.listeners.close()
        dialer.stop()
        run()
        relay.sessions.sayGoodbye(.done)
    }

    // MARK: Names

    /// A name is looked up again while an outage lasts, off the loop; the last good addresses stay in use meanwhile.
    private func lookUpIfUseful() {
        guard dialer.isSeeking else { return }
        server.lookUpIfUseful(relay, isUrgent: session.link.isDown, .serverLookup)
        if server.addresses.isEmpty {
            relay.timers.set(Operation.serverLookup.token(), at: relay.now + Policy.lookupPause.nanoseconds)
        }
    }

    func handleLookup(_ answer: Resolver.Answer) {
        switch server.take(answer) {
        case .same:
            break
        case .changed:
            dialer.handleAddresses(server.addresses, foreign: Set(server.addresses.filter { home.isStranger($0) }), now: relay.instant)
        case .failed(let reason):
            let whose = relay.configuration.proxy == nil ? "" : "the proxy "
            noteFailure(ReachFailure("cannot resolve \(whose)\(server.name.host): \(reason)"))
        }
        run()
    }

    /// The first failure of an outage is told, and each time the reason changes; the rest is silence.
    private func noteFailure(_ failure: ReachFailure) {
        guard dialer.isSeeking else { return }
        relay.events.note(.dialFailed)
        giveUpIfUseless(failure)
        guard failure.reason != lastFailure else { return }
        lastFailure = failure.reason
        let isUrgent = relay.configuration.stream != nil && !session.endpoint.isEstablished
        relay.events.note(.serverUnreachable(relay.configuration.output, failure, isUrgent: isUrgent))
    }

    /// Ends the process when another attempt has no purpose.
    private func giveUpIfUseless(_ failure: ReachFailure) {
        guard session.carrier == nil, givenUp == nil else { return }
        var state = failing ?? (since: relay.now, refusedSince: nil, lasting: 0)
        state.refusedSince = failure.kind == .refused ? state.refusedSince ?? relay.now : nil
        state.lasting = failure.isLasting ? state.lasting + 1 : 0
        failing = state
        let fault: StartFault?
        if session.endpoint.isEstablished {
            let isGone = state.refusedSince.map { relay.now - $0 >= Policy.goneAfter.nanoseconds } ?? false
            fault =
                isGone && relay.configuration.stream != nil
                ? StartFault(
                    .unavailable, "the tele server at \(relay.configuration.output) is no longer running, the connection is lost",
                    hint: "was the host restarted?")
                : nil
        } else if !hasReached, let seconds = relay.configuration.exitsOnFailureAfterSeconds {
            let age = relay.now - state.since
            let isLasting = state.lasting >= Policy.lastingFailures.count && age >= Policy.lastingFailures.time.nanoseconds
            fault =
                isLasting || age >= UInt64(seconds) * 1_000_000_000
                ? StartFault(
                    failure.isDenied ? .denied : .unavailable, "cannot reach the server at \(relay.configuration.output) (\(failure.reason))",
                    hint: failure.hint) : nil
        } else {
            fault = nil
        }
        guard let fault else { return }
        givenUp = fault
        relay.request(gently: false)
    }

    func noteReached() {
        failing = nil
        hasReached = true
    }
}
