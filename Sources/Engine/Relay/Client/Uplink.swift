import Control
import CSlab
import Glibc
import Loop
import State
import Time
import Tunnel
import Wire

/// A client's way to one of its servers: the session, and whoever dials for it. What it says to the server on a fresh carrier is in
/// `UplinkHandshake`; which uplink new users take is `Client`'s to say.
final class Uplink {
    unowned(unsafe) let relay: RelayProcess
    unowned(unsafe) let client: Client
    /// Tells it apart from all others of this process; its timers and questions bear it.
    let number: UInt32
    /// The server, and its place in the user's list.
    let target: HostPort
    let rank: Int
    private(set) var session: Session
    private(set) lazy var standby = Standby(self)
    private(set) lazy var subflows = SubflowMaker(self)
    /// What the dialer was told last.
    private var ways: [Way] = []
    var dialer: Dialer<Way>
    var candidates: [Dialer<Way>.CandidateID: Carrier] = [:]
    /// What is dialled: the server's name, or the proxy's.
    let server: ResolvedName
    /// One more carrier to a server that has an uplink already: it takes a share of the users, and nothing depends on it.
    let isExtra: Bool
    /// Addresses of the name that lead to other servers, which have uplinks of their own.
    private let avoided: Set<Address>
    /// What the server has said to each of this side's origins, by name.
    var answers: [String: Welcome.OriginAnswer?] = [:]
    /// Whose word ends the session.
    var home = SessionHome<Address>()
    /// How long the server keeps the session without a carrier. Nil: it does not say.
    var holdSeconds: Int?
    /// Subflows that the server lets a carrier have.
    var subflowsMaximum = 0
    /// The local address from which the server is reached, when the network last changed.
    var route: Address?
    /// The last failure that was told.
    var lastFailure = ""
    /// The server said that it does not know the session.
    var wasUnknown = false
    /// Since there is no carrier: when that was noticed first, when the port began to refuse, and lasting failures in a row.
    private(set) var failing: (since: UInt64, refusedSince: UInt64?, lasting: Int)?

    init(_ client: Client, number: UInt32, rank: Int, isExtra: Bool = false, avoiding avoided: Set<Address> = [], session: Session? = nil) {
        (self.client, relay, self.number, self.rank, self.isExtra, self.avoided) = (client, client.relay, number, rank, isExtra, avoided)
        target = relay.configuration.servers[rank]
        server = ResolvedName(relay.configuration.proxy?.address ?? target)
        self.session = session ?? Uplink.makeSession(relay)
        dialer = Uplink.makeDialer(relay, isExtra: isExtra)
    }

    private static func makeDialer(_ relay: RelayProcess, isExtra: Bool, attempt: UInt64 = 0) -> Dialer<Way> {
        let pace = relay.configuration.proxy != nil ? DialPolicy.proxyPace : isExtra ? DialPolicy.extraPace : .zero
        return Dialer(isSecure: relay.credentials != nil, minimumPace: pace, attempt: attempt, now: relay.instant)
    }

    static func makeSession(_ relay: RelayProcess) -> Session {
        let configuration = relay.configuration
        let limits = Endpoint.Limits(
            retained: configuration.bufferByteCount,
            received: min(configuration.bufferByteCount, configuration.memoryByteCount / 4),
            streams: configuration.maximumStreams)
        return relay.sessions.add(.client, limits)
    }

    /// Addresses that may know the session. A new session of an extra uplink is meant for the server that the first one has reached.
    var addresses: [Address] {
        if isExtra, !session.endpoint.isEstablished, let home = client.home(ofRank: rank) { return [home] }
        let own = server.addresses.filter { !avoided.contains($0) }
        return own.isEmpty ? server.addresses : own
    }

    /// Its name has addresses that may lead to other servers: one of each family is a single host with both. Of a proxy's address nobody can
    /// tell where it leads.
    var mayHaveReplicas: Bool {
        guard relay.configuration.proxy == nil, server.addresses.count > 1 else { return false }
        return Dictionary(grouping: server.addresses, by: \.family).values.contains { addresses in
            addresses.count > 1 && addresses.contains { !home.addresses.contains($0) }
        }
    }

    /// From when on the server has let the session go. Nil: it has a carrier, or the server does not say how long it waits.
    var forgottenAt: Instant? {
        guard case .detached(let since) = session.link, session.endpoint.isEstablished, let holdSeconds else { return nil }
        return Instant(nanoseconds: since) + .seconds(UInt64(holdSeconds)) + Policy.holdMargin
    }

    func start() {
        if !server.addresses.isEmpty { handleAddresses() }
        lookUpIfUseful()
        route = addresses.first.flatMap { Socket.source(to: $0) }
        run()
    }

    /// The process ends: nothing is dialled any more.
    func stop() {
        dialer.stop()
        run()
    }

    /// Nobody needs it: the server is told, if it can be. Its users are gone.
    func end() {
        standby.end()
        subflows.end()
        stop()
        relay.timers.cancel(Operation.dial.token(number))
        relay.timers.cancel(Operation.serverLookup.token(number))
        relay.sessions.end(session, .done, "the client no longer needs it")
    }

    // MARK: Dialling

    /// Does what the dialer says, and asks again when it wants to be asked.
    func run() {
        guard !relay.handover.isUnderWay else { return }
        while let action = dialer.nextAction() { act(action) }
        dialer.checkInvariants()
        let next = dialer.nextTimeout
        if next == .never {
            relay.timers.cancel(Operation.dial.token(number))
        } else {
            relay.timers.set(Operation.dial.token(number), at: next.nanoseconds)
        }
    }

    private func act(_ action: Dialer<Way>.Action) {
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

    private func connect(_ id: Dialer<Way>.CandidateID, _ way: Way) {
        guard let carrier = open(way) else { return dialer.handleFailed(id, now: relay.instant) }
        carrier.candidate = id
        candidates[id] = carrier
        if !relay.carriers.connect(carrier, to: way.address) { relay.carriers.lost(carrier, "out of memory") }
    }

    /// A socket that is about to connect. Nil: there is none to be had.
    func open(_ way: Way) -> Carrier? {
        do throws(SystemError) {
            let carrier = relay.carriers.add(fd: try Socket.dialling(way.address, through: way.interface), peer: way.address, state: .connecting)
            if let count = dialer.segmentByteCount, !way.address.isLoopback { carrier.limitSegments(count) }
            carrier.uplink = self
            (carrier.way, carrier.interface) = (way, way.interface)
            carrier.widenReceive()
            return carrier
        } catch {
            noteFailure(unreachable(error))
            return nil
        }
    }

    /// A connection that stood by is one of the dialer's now.
    func adopt(_ carrier: Carrier, _ way: Way, connectTook: Interval) {
        carrier.candidate = dialer.handleStandby(way, connectTook: connectTook, now: relay.instant)
        candidates[carrier.candidate] = carrier
        run()
    }

    /// Who makes this connection beside the dialer. Nil: nobody, it is a candidate of the dialer's.
    func aside(_ carrier: Carrier) -> (any Aside)? {
        if standby.isMaking(carrier) { return standby }
        return subflows.isMaking(carrier) ? subflows : nil
    }

    // MARK: Paths

    /// The interfaces from which the address can be reached, that of its route first; none of a proxy's.
    func interfaces(to address: Address) -> [Interface] {
        switch relay.configuration.paths {
        case .usual: []
        case .all: Interface.reaching(address)
        case .named(let names): Interface.reaching(address, names: ordered(names))
        }
    }

    /// Several carriers begin on the user's interfaces in turn, so that many connections together use all of them.
    private func ordered(_ names: [String]) -> [String] {
        let first = isExtra ? Int(number - 1) % names.count : 0
        return Array(names[first...] + names[..<first])
    }

    /// How each address is dialled: as its route says first, and then through the other interfaces; before the first carrier these are tried only
    /// after a failure, because each HELLO asks for another session. With names of interfaces, through these only.
    private func ways(to addresses: [Address]) -> [Way] {
        let isUsual = relay.configuration.paths == .usual || relay.configuration.paths == .all && !session.endpoint.isEstablished && lastFailure.isEmpty
        guard relay.configuration.proxy == nil, !isUsual else { return addresses.map { Way(address: $0) } }
        let all = addresses.map { ($0, interfaces(to: $0)) }
        if case .named = relay.configuration.paths {
            return all.flatMap { (address, interfaces) in
                address.isLoopback || address.path != nil
                    ? [Way(address: address)] : interfaces.map { Way(address: address, interface: $0.index) }
            }
        }
        return addresses.map { Way(address: $0) }
            + all.flatMap { (address, interfaces) in interfaces.dropFirst().map { Way(address: address, interface: $0.index) } }
    }

    /// Interfaces have come or gone, perhaps. A pause of the dialer ends only if there is something new.
    func refreshWays() {
        if relay.configuration.paths != .usual, ways(to: addresses) != ways { handleAddresses() }
    }

    func handleAddresses() {
        let ways = ways(to: addresses)
        self.ways = ways
        if ways.isEmpty, !addresses.isEmpty { noteFailure(ReachFailure("no interface of -paths leads to it")) }
        dialer.handleAddresses(ways, foreign: Set(ways.filter { home.isStranger($0.address) }), now: relay.instant)
    }

    // MARK: What becomes of a connect

    private func unanswered(_ carrier: Carrier) -> ReachFailure {
        guard let proxy = relay.configuration.proxy, carrier.state == .tunnelling else { return unreachable(SystemError(ETIMEDOUT)) }
        return ReachFailure("the proxy \(proxy.address) does not answer: is it \(proxy.kind == .http ? "an HTTP" : "a SOCKS5") proxy?")
    }

    /// What is dialled did not answer, or refused.
    private func unreachable(_ error: SystemError) -> ReachFailure {
        guard let proxy = relay.configuration.proxy else { return ReachFailure(error.whenConnecting) }
        return ReachFailure("the proxy \(proxy.address) cannot be reached: \(error.whenConnecting)")
    }

    func handleTimer(_ operation: Operation) {
        if operation == .standby { return standby.handleTimer() }
        lookUpIfUseful()
        guard operation == .dial, !relay.handover.isUnderWay else { return }
        let (wasSmall, wasPausing) = (dialer.segmentByteCount != nil, dialer.isPausing)
        dialer.handleTimeout(now: relay.instant, using: &relay.generator)
        noteSegments(wasSmall)
        if dialer.isPausing, !wasPausing { relay.events.note(.pausesForBan(seconds: DialPolicy.banPause.nanoseconds / 1_000_000_000)) }
        run()
    }

    func handleConnected(_ carrier: Carrier, _ error: SystemError?) {
        if let aside = aside(carrier) { return aside.handleConnected(carrier, error) }
        if let error {
            guard error.code == ETIMEDOUT, candidates.removeValue(forKey: carrier.candidate) != nil else {
                return relay.carriers.lost(carrier, unreachable(error).reason)
            }
            dialer.handleUnanswered(carrier.candidate)
            relay.carriers.close(carrier)
            return noteFailure(unreachable(error))
        }
        guard let proxy = relay.configuration.proxy else { return reached(carrier) }
        let handshake = proxy.handshake(to: target, client.proxyCredentials)
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

    func secure(_ carrier: Carrier) {
        guard let channel = relay.credentials?.channel(to: target) else { return relay.carriers.lost(carrier, "out of memory") }
        relay.carriers.security.begin(carrier, channel)
    }

    func handleHeard(_ carrier: Carrier) { if aside(carrier) == nil { dialer.handleHeard(carrier.candidate, now: relay.instant) } }

    /// HELLO follows at once, in one flight with the end of the handshake.
    func handleSecured(_ carrier: Carrier, _ channel: SecureChannel) {
        guard let name = relay.credentials?.name(of: channel.peer) else {
            return relay.carriers.security.turnAway(carrier, "its certificate has a name that -allow does not")
        }
        carrier.peerName = name
        carrier.state = .connected
        if let aside = aside(carrier) { return aside.ask(carrier) }
        dialer.handleSecured(carrier.candidate, now: relay.instant)
        run()
    }

    /// The next carrier uses them. A server that is not trusted any more keeps no carrier, and its users wait for one that is.
    func handleReloaded() {
        standby.renew()
        guard let carrier = session.carrier, let channel = carrier.transport.channel, let credentials = relay.credentials,
            !credentials.accepts(channel), case .certificates = relay.configuration.security
        else { return }
        relay.carriers.lost(carrier, "the server's certificate is not accepted any more")
    }

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
        let route = (session.carrier?.peer ?? addresses.first).flatMap { Socket.source(to: $0) }
        defer {
            self.route = route
            standby.handleNetworkChanged()
        }
        refreshWays()
        if route != self.route { dialer.handleRouteChanged() }
        // A pause that a firewall's ban asks for must outlast links that come and go elsewhere.
        if route != self.route || dialer.isSeeking && !dialer.isPausing { pathMayHaveChanged() }
    }

    /// Another uplink has reached the server.
    func tryAtOnce() {
        dialer.handlePathChanged(now: relay.instant)
        run()
    }

    /// A new carrier is wanted, though the old one may work.
    func reconnect() {
        dialer.handlePathChanged(now: relay.instant)
        dialer.handleSuspected(now: relay.instant)
        run()
    }

    // MARK: Losses

    /// Also when it is only in doubt.
    func handleSuspected() {
        let wasSmall = dialer.segmentByteCount != nil
        dialer.handleSuspected(isFruitless: session.endpoint.isFruitless, now: relay.instant)
        noteSegments(wasSmall)
        standby.takeOver()
        run()
    }

    private func noteSegments(_ wasSmall: Bool) {
        guard !wasSmall, let count = dialer.segmentByteCount else { return }
        relay.events.note(.usesSmallSegments(count))
    }

    func handleRecovered() {
        home.handleRecovered()
        dialer.handleRecovered()
        run()
        standby.review()
    }

    func handleLost(_ carrier: Carrier, _ reason: String) {
        relay.events.note(.carrierLost(session, carrier.peer, reason: reason, heldForSeconds: nil))
        detach()
        standby.takeOver()
        run()
    }

    private func detach() {
        subflows.end()
        let isFruitless = session.endpoint.isFruitless
        relay.sessions.detach(session)
        home.handleCarrierLost()
        client.choose()
        dialer.handleCarrierLost(isFruitless: isFruitless, now: relay.instant)
    }

    func suspend() {
        standby.end()
        subflows.end()
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

    func handleFailed(_ carrier: Carrier, _ reason: String) {
        if let aside = aside(carrier) { return aside.handleFailed(carrier) }
        failed(carrier, ReachFailure(explained(reason, carrier)))
    }

    private func fail(_ carrier: Carrier, _ failure: ReachFailure) {
        relay.carriers.close(carrier)
        failed(carrier, failure)
    }

    private func failed(_ carrier: Carrier, _ failure: ReachFailure) {
        guard candidates.removeValue(forKey: carrier.candidate) != nil else { return }
        // What does not pass by itself is not asked twenty times a second, as long as nobody has anything to lose.
        let cause: Dialer<Way>.Failure = failure.isLasting && !client.hasReached ? .lasting : failure.kind == .refused ? .refused : .passing
        dialer.handleFailed(carrier.candidate, cause, now: relay.instant)
        noteFailure(failure)
        run()
    }

    /// The server lost or ended the session. Streams that no carrier ever heard of go on in a new one with all their bytes;
    /// the others' users are reset.
    func handleSessionEnded(_ lost: Session) {
        standby.end()
        subflows.end()
        session = Uplink.makeSession(relay)
        let carried = relay.sessions.carryOver(from: lost, to: session)
        home = SessionHome()
        holdSeconds = nil
        if wasUnknown { relay.events.note(.sessionLost(lost, carriedOver: carried)) }
        client.wasRestarted = wasUnknown
        wasUnknown = false
        dialer.handleSessionReplaced(now: relay.instant)
        run()
        relay.sessions.markDirty(session)
    }

    // MARK: Names

    /// A name is looked up again while an outage lasts, off the loop; the last good addresses stay in use meanwhile.
    private func lookUpIfUseful() {
        guard dialer.isSeeking else { return }
        server.lookUpIfUseful(relay, isUrgent: session.link.isDown, .serverLookup, number)
        if server.addresses.isEmpty {
            relay.timers.set(Operation.serverLookup.token(number), at: relay.now + Policy.lookupPause.nanoseconds)
        }
    }

    func handleLookup(_ answer: Resolver.Answer) {
        switch server.take(answer) {
        case .same:
            break
        case .changed:
            handleAddresses()
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
        if session.carrier == nil { failing = state(after: failure) }
        client.giveUpIfUseless(self, failure)
        guard failure.reason != lastFailure else { return }
        let isFirst = lastFailure.isEmpty && !session.endpoint.isEstablished && relay.configuration.paths != .usual
        lastFailure = failure.reason
        if isFirst { handleAddresses() }
        let isUrgent = relay.configuration.stream != nil && !session.endpoint.isEstablished
        relay.events.note(.serverUnreachable(target, failure, isUrgent: isUrgent))
    }

    private func state(after failure: ReachFailure) -> (since: UInt64, refusedSince: UInt64?, lasting: Int) {
        var state = failing ?? (since: relay.now, refusedSince: nil, lasting: 0)
        state.refusedSince = failure.kind == .refused ? state.refusedSince ?? relay.now : nil
        state.lasting = failure.isLasting ? state.lasting + 1 : 0
        return state
    }

    func noteReached() {
        failing = nil
        client.hasReached = true
        client.choose()
    }

    // MARK: Upgrades

    /// What a session's state says of its uplink.
    struct Record {
        var server = ""
        var attempt: UInt64 = 0
        var address: Address?
        var identity: ServerIdentity?
        var holdSeconds: Int?
        var isExtra = false

        mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
            try archive.text(&server, most: 1024)
            try archive.counter(&attempt)
            try archive.optional(&address, blank: Address(path: "")) { (address, archive) throws(StateFault) in try archive.address(&address) }
            try archive.optional(&identity, blank: ServerIdentity(run: 0, place: 0)) { (identity, archive) throws(StateFault) in
                try archive.number(&identity.run)
                try archive.number(&identity.place)
            }
            try archive.flag(&isExtra)
            try archive.optional(&holdSeconds, blank: 0) { (seconds, archive) throws(StateFault) in try archive.number(&seconds, in: 0...Int(UInt32.max)) }
        }
    }

    var record: Record {
        Record(server: "\(target)", attempt: dialer.attempt, address: home.address, identity: home.server, holdSeconds: holdSeconds, isExtra: isExtra)
    }

    /// Another number whenever the record is another one; no two uplinks have the same. The record has a text that is costly to make.
    var recordStamp: UInt64 {
        let facts = RecordFacts(attempt: dialer.attempt, address: home.address, identity: home.server, holdSeconds: holdSeconds)
        if facts != stamped.facts { stamped = (facts, stamped.count + 1) }
        return UInt64(number) << 40 | stamped.count
    }

    private struct RecordFacts: Equatable {
        var attempt: UInt64 = 0
        var address: Address?
        var identity: ServerIdentity?
        var holdSeconds: Int?
    }

    private var stamped: (facts: RecordFacts, count: UInt64) = (RecordFacts(), 1)

    /// Goes on with a session of the program before.
    func restore(_ restored: Session, _ record: Record) {
        let unused = session
        session = restored
        if unused !== restored { relay.sessions.discard(unused) }
        dialer = Uplink.makeDialer(relay, isExtra: isExtra, attempt: record.attempt)
        home = SessionHome(record.address, server: record.identity)
        holdSeconds = record.holdSeconds
        if session.endpoint.isEstablished {
            failing = nil
            client.hasReached = true
        }
    }
}
