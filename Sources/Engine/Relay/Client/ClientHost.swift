import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// The tele client: accepts users, opens a stream for each on the warm carrier, and does what its dialer says. What it says to
/// the server on a fresh carrier is in `ClientGreeting`.
final class ClientHost: Host {
    unowned(unsafe) let hub: Hub
    private(set) var session: Session
    var dialer: Dialer
    var candidates: [Dialer.CandidateID: Carrier] = [:]
    let server: ServerName
    /// Who may say that the session is gone.
    var home = SessionHome<Address>()
    /// The local address from which the server is reached, when the network last changed.
    var route: Address?
    /// The last failure that was told.
    var lastFailure = ""
    /// The server said that it does not know the session.
    var wasUnknown = false
    var only = Only.none
    /// Since there is no carrier: when that was noticed first, when the port began to refuse, and lasting failures in a row.
    private var failing: (since: UInt64, refusedSince: UInt64?, lasting: Int)?
    /// There was a carrier once.
    private var hasReached = false
    /// It ends for this.
    var givenUp: StartFault?

    /// The one user of `Configuration.stream`.
    enum Only {
        case none
        case open(UInt32, ResetCode?)
        case gone(Ending)
    }

    init(_ hub: Hub, server: HostPort) {
        self.hub = hub
        self.server = ServerName(server)
        session = ClientHost.makeSession(hub)
        dialer = Dialer(isSecure: hub.credentials != nil, now: hub.instant)
    }

    private static func makeSession(_ hub: Hub) -> Session {
        let configuration = hub.configuration
        let limits = Endpoint.Limits(retained: configuration.bufferByteCount,
                                     received: min(configuration.bufferByteCount, configuration.memoryByteCount / 4),
                                     streams: configuration.maximumStreams)
        let session = hub.sessions.add(.client, limits)
        session.detachedAt = hub.now
        return session
    }

    func start() {
        if !server.addresses.isEmpty { dialer.handleAddresses(server.addresses.count, now: hub.instant) }
        lookUpIfUseful()
        route = server.addresses.first.flatMap { Socket.source(to: $0) }
        run()
        guard let stream = hub.configuration.stream else { return }
        Socket.adopt(stream.fd)
        add(stream.fd, target: Mapping(name: stream.name, address: hub.configuration.output).target, 0)
    }

    // MARK: Dialling

    /// Does what the dialer says, and asks again when it wants to be asked.
    func run() {
        while let action = dialer.nextAction() { act(action) }
        dialer.checkInvariants()
        let next = dialer.nextTimeout
        if next == .never {
            hub.timers.cancel(Operation.dial.token())
        } else {
            hub.timers.set(Operation.dial.token(), at: next.nanoseconds)
        }
    }

    private func act(_ action: Dialer.Action) {
        switch action {
        case .connect(let id, let address):
            connect(id, server.addresses[address])
        case .secure(let id):
            if let carrier = candidates[id] { secure(carrier) }
        case .greet(let id, let attempt):
            if let carrier = candidates[id] { greet(carrier, attempt) }
        case .abandon(let id, let reason):
            guard let carrier = candidates.removeValue(forKey: id) else { return }
            if reason == .unanswered { noteFailure(ReachFailure(SystemError(ETIMEDOUT).whenConnecting)) }
            hub.carriers.close(carrier)
        case .keep(let id):
            if let offer = candidates[id]?.offer { session.endpoint.keep(offer) }
        case .withdrawOffers:
            session.endpoint.withdrawOffers()
            hub.sessions.markDirty(session)
        }
    }

    private func connect(_ id: Dialer.CandidateID, _ address: Address) {
        do throws(SystemError) {
            let carrier = hub.carriers.add(fd: try Socket.dialling(address), peer: address, state: .connecting)
            if let count = dialer.segmentByteCount, !address.isLoopback { carrier.limitSegments(count) }
            carrier.candidate = id
            carrier.widenReceive()
            candidates[id] = carrier
            if !hub.carriers.connect(carrier, to: address) { hub.carriers.lost(carrier, "out of memory") }
        } catch {
            noteFailure(ReachFailure(error.whenConnecting))
            dialer.handleFailed(id, now: hub.instant)
        }
    }

    func handleTimer(_ operation: Operation, _ token: Token) {
        lookUpIfUseful()
        guard operation == .dial else { return }
        let (wasSmall, wasPausing) = (dialer.segmentByteCount != nil, dialer.isPausing)
        dialer.handleTimeout(now: hub.instant, using: &hub.generator)
        noteSegments(wasSmall)
        if dialer.isPausing, !wasPausing { hub.journal.note(.pausesForBan(seconds: DialPolicy.banPause.nanoseconds / 1_000_000_000)) }
        run()
    }

    func handleConnected(_ carrier: Carrier, _ error: SystemError?) {
        if let error {
            guard error.code == ETIMEDOUT, candidates.removeValue(forKey: carrier.candidate) != nil else {
                return hub.carriers.lost(carrier, error.whenConnecting)
            }
            dialer.handleUnanswered(carrier.candidate)
            hub.carriers.close(carrier)
            return noteFailure(ReachFailure(error.whenConnecting))
        }
        carrier.state = .connected
        hub.carriers.armReceive(carrier)
        hub.sessions.probeAnswered(session)
        dialer.handleConnected(carrier.candidate, now: hub.instant)
        run()
    }

    private func secure(_ carrier: Carrier) {
        guard let channel = hub.credentials?.channel() else { return hub.carriers.lost(carrier, "out of memory") }
        hub.carriers.secure(carrier, channel)
    }

    func handleHeard(_ carrier: Carrier) { dialer.handleHeard(carrier.candidate, now: hub.instant) }

    func makeRoom() {}

    /// HELLO follows at once, in one flight with the end of the handshake.
    func handleSecured(_ carrier: Carrier, _ channel: SecureChannel) {
        guard let name = hub.credentials?.name(of: channel.peer) else {
            return hub.carriers.turnAway(carrier, "its certificate has a name that -allow does not")
        }
        carrier.peerName = name
        carrier.state = .connected
        dialer.handleSecured(carrier.candidate, now: hub.instant)
        run()
    }

    /// The next carrier uses them. A server that is not trusted any more keeps no carrier, and its users wait for one that is.
    func handleReloaded() {
        guard let carrier = session.carrier, let channel = carrier.transport.channel, let credentials = hub.credentials,
              !credentials.accepts(channel), case .certificates = hub.configuration.security else { return }
        hub.carriers.lost(carrier, "the server's certificate is not accepted any more")
    }

    /// Links, addresses or routes changed, or time was lost.
    func pathMayHaveChanged() {
        server.forgetQuestion()
        if !dialer.isSeeking {
            session.endpoint.doubt(now: hub.instant)
            hub.sessions.markDirty(session)
        }
        dialer.handlePathChanged(now: hub.instant)
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

    func reconnect() -> Bool {
        dialer.handlePathChanged(now: hub.instant)
        dialer.handleSuspected(now: hub.instant)
        run()
        return true
    }

    // MARK: Losses

    func handleInDoubt(_ session: Session) { handleSuspected(session) }

    func handleSuspected(_ session: Session) {
        let wasSmall = dialer.segmentByteCount != nil
        dialer.handleSuspected(isFruitless: session.endpoint.isFruitless, now: hub.instant)
        noteSegments(wasSmall)
        run()
    }

    private func noteSegments(_ wasSmall: Bool) {
        guard !wasSmall, let count = dialer.segmentByteCount else { return }
        hub.journal.note(.usesSmallSegments(count))
    }

    func handleRecovered(_ session: Session) {
        home.handleRecovered()
        dialer.handleRecovered()
        run()
    }

    func handleProven(_ session: Session) {}
    func handleShortage(_ session: Session) {}

    func handleLost(_ session: Session, _ carrier: Carrier, _ reason: String) {
        hub.journal.note(.carrierLost(session, carrier.peer, reason: reason, heldForSeconds: nil))
        hub.sessions.detach(session)
        home.handleCarrierLost()
        dialer.handleCarrierLost(now: hub.instant)
        run()
    }

    func handleFailed(_ carrier: Carrier, _ reason: String) {
        guard candidates.removeValue(forKey: carrier.candidate) != nil else { return }
        let failure = ReachFailure(explained(reason, carrier))
        // What does not pass by itself is not asked twenty times a second, as long as nobody has anything to lose.
        dialer.handleFailed(carrier.candidate, isLasting: failure.isLasting && !hasReached, now: hub.instant)
        noteFailure(failure)
        run()
    }

    /// The server lost or ended the session. Streams that no carrier ever heard of go on in a new one with all their bytes;
    /// the others' users are reset.
    func handleSessionEnded(_ lost: Session) {
        guard lost === session, !hub.stopping.isSaying else { return }
        session = ClientHost.makeSession(hub)
        var unopened: [(order: UInt64, owner: UInt32)] = []
        lost.endpoint.forEachUnopened { unopened.append(($0, $1)) }
        var carried = 0
        for (_, index) in unopened.sorted(by: { $0.order < $1.order }) where session.endpoint.canOpen {
            carryOver(index, from: lost)
            carried += 1
        }
        home = SessionHome()
        if wasUnknown { hub.journal.note(.sessionLost(lost, carriedOver: carried)) }
        wasUnknown = false
        dialer.handleSessionReplaced(now: hub.instant)
        run()
        hub.sessions.markDirty(session)
    }

    private func carryOver(_ index: UInt32, from lost: Session) {
        let user = hub.users[index]
        let target = lost.endpoint.forget(unopened: user.pointee.slot)
        let slot = session.endpoint.open(owner: index, target: target, now: hub.instant)
        hub.users.move(index, from: lost, to: session, slot)
        if user.pointee.inboundCount > 0 { session.endpoint.write(slot, user.pointee.inboundCount) }
        if user.pointee.life.inward == .ended { session.endpoint.finish(slot) }
    }

    // MARK: The end

    var unreadiness: String? {
        guard session.carrier == nil else { return nil }
        let seconds = (hub.now - min(hub.now, session.detachedAt ?? hub.startedAt)) / 1_000_000_000
        return "no carrier for \(seconds) s" + (lastFailure.isEmpty ? "" : ": \(lastFailure)")
    }

    var summary: Int { session.carrier == nil ? 0 : session.endpoint.isSuspected ? 1 : 2 }
    var summaryWords: String { ["no carrier, users wait", "carrier suspected", "carrier up"][summary] }

    func drain() { hub.listeners.close() }

    func sayGoodbye() {
        hub.listeners.close()
        dialer.stop()
        run()
        hub.sessions.sayGoodbye(.done)
    }

    // MARK: Names

    /// A name is looked up again while an outage lasts, off the loop; the last good addresses stay in use meanwhile.
    private func lookUpIfUseful() {
        guard dialer.isSeeking else { return }
        server.lookUpIfUseful(hub, isUrgent: session.carrier == nil || session.endpoint.isSuspected, .serverLookup)
        if server.addresses.isEmpty {
            hub.timers.set(Operation.serverLookup.token(), at: hub.now + Policy.lookupPause.nanoseconds)
        }
    }

    func handleLookup(_ answer: Resolver.Answer) {
        switch server.take(answer) {
        case .same:
            break
        case .changed:
            let foreign = server.addresses.indices.filter { home.isStranger(server.addresses[$0]) }
            dialer.handleAddresses(server.addresses.count, foreign: Set(foreign), now: hub.instant)
        case .failed(let reason):
            noteFailure(ReachFailure("cannot resolve \(server.name.host): \(reason)"))
        }
        run()
    }

    /// The first failure of an outage is told, and each time the reason changes; the rest is silence.
    private func noteFailure(_ failure: ReachFailure) {
        guard dialer.isSeeking else { return }
        hub.journal.note(.dialFailed)
        giveUpIfUseless(failure)
        guard failure.reason != lastFailure else { return }
        lastFailure = failure.reason
        let isUrgent = hub.configuration.stream != nil && !session.endpoint.isEstablished
        hub.journal.note(.serverUnreachable(server.name, failure, isUrgent: isUrgent))
    }

    /// Who has nothing to wait for does not wait.
    private func giveUpIfUseless(_ failure: ReachFailure) {
        guard session.carrier == nil, givenUp == nil else { return }
        var state = failing ?? (since: hub.now, refusedSince: nil, lasting: 0)
        state.refusedSince = failure.kind == .refused ? state.refusedSince ?? hub.now : nil
        state.lasting = failure.isLasting ? state.lasting + 1 : 0
        failing = state
        let fault: StartFault?
        if session.endpoint.isEstablished {
            let isGone = state.refusedSince.map { hub.now - $0 >= Policy.goneAfter.nanoseconds } ?? false
            fault = isGone && hub.configuration.stream != nil
                ? StartFault(.unavailable, "the tele server at \(server.name) is no longer running, the connection is lost", hint: "was the host restarted?") : nil
        } else if !hasReached, let seconds = hub.configuration.exitsOnFailureAfterSeconds {
            let age = hub.now - state.since
            let isLasting = state.lasting >= Policy.lastingFailures.count && age >= Policy.lastingFailures.time.nanoseconds
            fault = isLasting || age >= UInt64(seconds) * 1_000_000_000
                ? StartFault(failure.kind == .denied ? .denied : .unavailable, "cannot reach the server at \(server.name) (\(failure.reason))",
                             hint: failure.hint) : nil
        } else {
            fault = nil
        }
        guard let fault else { return }
        givenUp = fault
        hub.request(gently: false)
    }

    func noteReached() {
        failing = nil
        hasReached = true
    }
}
