import Control
import CSlab
import Glibc
import Loop
import State
import Time
import Tunnel
import Wire

/// The tele client: accepts users, opens a stream for each on the warm carrier of one of its servers, and says which. How a server is
/// reached is its uplink's to say; users are in `ClientListeners`.
final class Client: Host {
    unowned(unsafe) let relay: RelayProcess
    /// At least one: the first to each server.
    private(set) var uplinks: [Uplink] = []
    /// More to the same servers (-carriers).
    private(set) var extras: [Uplink] = []
    /// Where new users go.
    private(set) var current: Uplink!
    /// Streams that no server has been told of, while more than one could take them. It never has a carrier.
    private var pending: Session? {
        didSet { relay.sessions.awaitsLife = pending != nil }
    }
    private let choice: ServerChoice
    private lazy var loss = LossWatch(self)
    /// Extra uplinks in a row that have found another server than the current one, and until when none is made because of them.
    private var strays: (count: Int, until: UInt64) = (0, 0)
    private var numbers: UInt32 = 0
    /// A choice is being made; another one is wanted after it.
    private var isChoosing = false
    private var wantsChoice = false
    /// Addresses that names had for another program in this process.
    private var known: [String: [Address]] = [:]
    /// The proxy's, as read last.
    private(set) var proxyCredentials: ProxyHandshake.Credentials?
    /// Users who say where they want to go.
    let requests: ProxyRequests
    var only = SingleStream.none
    /// Nothing is chosen before: a state is being restored, perhaps.
    private var hasStarted = false
    /// There was a carrier once.
    var hasReached = false
    /// The last session that ended was one that its server did not know any more.
    var wasRestarted = false
    /// It ends for this.
    var givenUp: StartFault?
    /// Of the session that is being restored.
    private var record = Uplink.Record()

    /// The one user of `Configuration.stream`.
    enum SingleStream {
        case none
        case open(UInt32, ResetCode?)
        case gone(Ending)
    }

    init(_ relay: RelayProcess) throws(StartFault) {
        self.relay = relay
        choice = ServerChoice(failover: .seconds(UInt64(relay.configuration.failoverSeconds)))
        requests = try ProxyRequests(relay)
        proxyCredentials = try relay.configuration.proxy?.credentials()
        current = add(rank: 0)
    }

    private func add(rank: Int, isExtra: Bool = false, avoiding avoided: Set<Address> = [], session: Session? = nil) -> Uplink {
        numbers += 1
        let uplink = Uplink(self, number: numbers, rank: rank, isExtra: isExtra, avoiding: avoided, session: session)
        uplink.server.know(known["\(uplink.server.name)"] ?? [])
        if isExtra { extras.append(uplink) } else { uplinks.append(uplink) }
        return uplink
    }

    private var all: [Uplink] { extras.isEmpty ? uplinks : uplinks + extras }

    /// By its configuration, or by its names.
    var hasSeveralServers: Bool { uplinks.count > 1 || relay.configuration.servers.count > 1 }

    /// Nil: the session is not in use any more.
    func uplink(of session: Session) -> Uplink? { uplinks.first { $0.session === session } ?? extras.first { $0.session === session } }

    func start() {
        hasStarted = true
        for uplink in all { uplink.start() }
        choose()
        loss.run()
        guard let stream = relay.configuration.stream else { return }
        Socket.adopt(stream.fd)
        add(stream.fd, target: Mapping(name: stream.name, address: relay.configuration.output).target, 0)
    }

    // MARK: Servers

    /// The session in which a new user's stream is opened. What was sent to a server cannot be moved to another one, so nothing is sent while the
    /// server may be silent: the stream is pending. A server that was quiet is asked first, which takes a round trip, as a connect would.
    var sessionForNewUser: Session {
        loss.run()
        guard holdsNewUsers else { return leastBusy }
        current.session.endpoint.ask()
        relay.sessions.markDirty(current.session)
        let pending = pending ?? Uplink.makeSession(relay)
        self.pending = pending
        return pending
    }

    /// Every server shows that it is there, if it is.
    func ask() {
        for uplink in all where !uplink.session.link.isDown {
            uplink.session.endpoint.ask()
            relay.sessions.markDirty(uplink.session)
        }
    }

    /// Of the current server's uplinks that work, the one with the fewest streams. While none works they share the users who come.
    private var leastBusy: Session {
        var best = current.session
        for extra in extras where isOfCurrent(extra) && extra.session.endpoint.canOpen {
            let (rank, bestRank) = (usefulness(extra.session), usefulness(best))
            if !best.endpoint.canOpen || rank > bestRank || rank == bestRank && extra.session.endpoint.streamCount < best.endpoint.streamCount {
                best = extra.session
            }
        }
        return best
    }

    /// 2: it works. 1: it may be expected to as soon as the first one.
    private func usefulness(_ session: Session) -> Int {
        if session.isHealthy, session.endpoint.isEstablished { return 2 }
        return session.endpoint.isEstablished == current.session.endpoint.isEstablished ? 1 : 0
    }

    /// The first is that of its first session.
    var uplinksOfCurrentServer: [Uplink] { [current] + extras.filter(isOfCurrent) }

    private func isOfCurrent(_ extra: Uplink) -> Bool {
        guard extra.rank == current.rank else { return false }
        // A server that was started anew has told the one that came first: the others find the same.
        if current.session.link.isDown, leadsToOneServer { return true }
        guard let server = extra.home.server, let own = current.home.server else { return true }
        return server.run == own.run
    }

    /// Where the first uplink to a server of the list has reached it.
    func home(ofRank rank: Int) -> Address? {
        (current.rank == rank ? current : nil)?.home.address ?? uplinks.first { $0.rank == rank && $0.home.address != nil }?.home.address
    }

    /// As many to the current server as are configured; those of others only while somebody uses them.
    func chooseExtras() {
        for extra in extras where !isOfCurrent(extra) && !extra.session.isPrecious && extra.session.userCount == 0 {
            if extra.rank == current.rank { noteStray() }
            end(extra)
        }
        for extra in extras where extra.session.isPrecious {
            guard let end = extra.forgottenAt, relay.instant >= end else { continue }
            relay.events.note(.sessionExpired(extra.session, heldForSeconds: extra.holdSeconds ?? 0))
            relay.sessions.discard(extra.session)
        }
        let most = loss.sessions - 1
        for extra in extras.filter(isOfCurrent).dropFirst(most) where !extra.session.isPrecious && extra.session.userCount == 0 { end(extra) }
        guard !current.session.link.isDown || leadsToOneServer, relay.now >= strays.until, relay.stopping.isRunning else { return }
        while extras.count(where: isOfCurrent) < most {
            let extra = add(rank: current.rank, isExtra: true)
            extra.server.know(current.server.addresses)
            extra.start()
        }
    }

    /// Behind the current one's address is another server. The current one may be gone without a word; or a load balancer chooses.
    private func noteStray() {
        strays.until = relay.now + min(Policy.strayPause.upperBound.nanoseconds, Policy.strayPause.lowerBound.nanoseconds << UInt64(strays.count))
        strays.count = min(strays.count + 1, 16)
        current.session.endpoint.ask()
        relay.sessions.markDirty(current.session)
    }

    /// Extra uplinks can be dialled together with the first one: they cannot find another server than it will.
    private var leadsToOneServer: Bool { !hasSeveralServers && !current.server.addresses.isEmpty && !current.mayHaveReplicas }

    /// Users of extra uplinks that have not reached the server, though the first one has: it may have no room for more sessions.
    private func releaseUnreached() {
        guard let carrier = current.session.carrier, !current.session.link.isDown else { return }
        for extra in extras where isOfCurrent(extra) && !extra.session.endpoint.isEstablished && extra.session.userCount > 0 {
            guard relay.age(of: carrier.openedAt) >= Policy.extraMoment.nanoseconds else { continue }
            relay.sessions.carryOver(from: extra.session, to: current.session)
        }
    }

    /// The server answers: whoever dials it may try again at once.
    func handleWelcomed(_ uplink: Uplink) {
        if uplink === current { loss.addSubflows() }
        guard !extras.isEmpty else { return }
        if uplink.isExtra, isOfCurrent(uplink), uplink.home.server != nil, !current.session.link.isDown { strays = (0, 0) }
        for other in all where other !== uplink && other.rank == uplink.rank && other.session.link.isDown { other.tryAtOnce() }
    }

    private func end(_ uplink: Uplink) {
        uplinks.removeAll { $0 === uplink }
        extras.removeAll { $0 === uplink }
        uplink.end()
    }

    private var holdsNewUsers: Bool { !isAnswering && (hasSeveralServers || current.mayHaveReplicas) }

    /// The current server has answered a moment ago.
    private var isAnswering: Bool {
        !current.session.link.isDown && current.session.endpoint.hasAnswered(within: Policy.answerMoment, now: relay.instant)
    }

    /// The peer was heard.
    func handleLife(_ session: Session) { if session === current.session { releasePending() } }

    /// It waits for no server in particular.
    func isPending(_ session: Session) -> Bool { session === pending }

    /// There is room for one more stream.
    var canOpen: Bool { holdsNewUsers ? pending?.endpoint.canOpen ?? true : leastBusy.endpoint.canOpen }

    /// Moves pending streams to the current server, if it answers.
    private func releasePending() {
        guard let pending, isAnswering else { return }
        relay.sessions.carryOver(from: pending, to: current.session)
        guard pending.userCount == 0 else { return }
        self.pending = nil
        relay.sessions.discard(pending)
    }

    /// After each change of what an uplink has of a carrier, and when time has passed.
    func choose() {
        guard hasStarted, relay.stopping.isRunning, !relay.handover.isUnderWay else { return }
        // What is done here may change what is judged.
        wantsChoice = true
        guard !isChoosing else { return }
        isChoosing = true
        while wantsChoice {
            wantsChoice = false
            chooseOnce()
        }
        isChoosing = false
    }

    private func chooseOnce() {
        let facts = uplinks.map { uplink in
            ServerChoice.Uplink(
                number: uplink.number, rank: uplink.rank, downSince: uplink.session.link.downSince.map { Instant(nanoseconds: $0) },
                isReached: uplink.session.endpoint.isEstablished, isPrecious: uplink.session.isPrecious || uplink.session.userCount > 0,
                forgottenAt: uplink.forgottenAt)
        }
        let verdict = choice.judge(facts, current: current.number, now: relay.instant)
        if verdict.current != current.number, let next = uplinks.first(where: { $0.number == verdict.current }) {
            relay.events.note(.serverChosen(next.session, next.target, instead: current.target))
            current = next
        }
        for uplink in uplinks where verdict.abandoned.contains(uplink.number) {
            if relay.sessions.carryOver(from: uplink.session, to: current.session, takesSilent: true) > 0 { wantsChoice = true }
        }
        if !verdict.abandoned.isEmpty {
            for extra in extras where extra.session.link.isDown && !isOfCurrent(extra) {
                relay.sessions.carryOver(from: extra.session, to: current.session, takesSilent: true)
            }
        }
        releasePending()
        for uplink in uplinks where verdict.forgotten.contains(uplink.number) {
            relay.events.note(.sessionExpired(uplink.session, heldForSeconds: uplink.holdSeconds ?? 0))
            relay.sessions.discard(uplink.session)
        }
        for uplink in uplinks where verdict.unneeded.contains(uplink.number) && !uplink.session.isPrecious && uplink.session.userCount == 0 {
            end(uplink)
        }
        chooseExtras()
        releaseUnreached()
        if verdict.wantsAnother, let another = addAnother() {
            another.start()
            wantsChoice = true
        }
        var next = verdict.nextTimeout
        // Nothing tells when the last user of another server's extra uplink ends, or when its server has let it go.
        if extras.contains(where: { !isOfCurrent($0) || $0.forgottenAt != nil || !$0.session.endpoint.isEstablished }) {
            next = min(next, relay.instant + ServerChoice.idlePause)
        }
        if strays.until > relay.now { next = min(next, Instant(nanoseconds: strays.until)) }
        if next == .never {
            relay.timers.cancel(Operation.serverChoice.token())
        } else {
            relay.timers.set(Operation.serverChoice.token(), at: next.nanoseconds)
        }
    }

    /// Two addresses of a name have led to one server: one session with it is enough, which can be resumed at both. (Two names in the list are
    /// two servers, whatever is behind them.)
    func endIfDouble(_ uplink: Uplink) {
        guard let server = uplink.home.server,
            let other = uplinks.first(where: { $0 !== uplink && $0.rank == uplink.rank && $0.home.server?.run == server.run })
        else { return }
        other.home.handleAlias(uplink.home.addresses)
        relay.sessions.carryOver(from: uplink.session, to: other.session, takesSilent: true)
        guard uplink.session.userCount == 0 else { return }
        if current === uplink { current = other }
        end(uplink)
        choose()
    }

    /// The next server that has no uplink, or another address of a name that leads to several. Nil: all are tried.
    private func addAnother() -> Uplink? {
        for rank in relay.configuration.servers.indices {
            let own = uplinks.filter { $0.rank == rank }
            guard !own.isEmpty else { return add(rank: rank) }
            guard own[0].mayHaveReplicas, own.allSatisfy({ $0.home.address != nil }) else { continue }
            let taken = own.reduce(into: Set<Address>()) { $0.formUnion($1.home.addresses) }
            let addresses = own[0].server.addresses
            guard !taken.isSuperset(of: addresses) else { continue }
            let another = add(rank: rank, avoiding: taken)
            another.server.know(addresses)
            return another
        }
        return nil
    }

    // MARK: Events

    func handleTimer(_ operation: Operation, _ token: Token) {
        switch operation {
        case .serverChoice: choose()
        case .carrierCount:
            loss.handleTimer()
        default: all.first { $0.number == token.index }?.handleTimer(operation)
        }
    }

    /// Addresses of names: the name server may not answer during an upgrade.
    var knownAddresses: [(String, [Address])] { uplinks.map { ("\($0.server.name)", $0.server.addresses) } }

    func know(_ addresses: [(String, [Address])]) {
        known = Dictionary(addresses) { first, _ in first }
        for uplink in uplinks { uplink.server.know(known["\(uplink.server.name)"] ?? []) }
    }

    func handleLookup(_ answer: Resolver.Answer) {
        let number = Token(rawValue: answer.token).index
        all.first { $0.number == number }?.handleLookup(answer)
        if hasStarted, extras.isEmpty, !relay.handover.isUnderWay { chooseExtras() }
    }

    func handleConnected(_ carrier: Carrier, _ error: SystemError?) { carrier.uplink?.handleConnected(carrier, error) }
    func handleHeard(_ carrier: Carrier) { carrier.uplink?.handleHeard(carrier) }
    func handleSecured(_ carrier: Carrier, _ channel: SecureChannel) { carrier.uplink?.handleSecured(carrier, channel) }
    func readHandshake(_ carrier: Carrier) { carrier.uplink?.readHandshake(carrier) }
    func handleFailed(_ carrier: Carrier, _ reason: String) { carrier.uplink?.handleFailed(carrier, reason) }

    func handleLate(_ session: Session) { uplink(of: session)?.standby.hurry() }

    func handleStandbyLost(_ session: Session) { uplink(of: session)?.standby.handleLost() }

    func handleInDoubt(_ session: Session) { uplink(of: session)?.handleSuspected() }

    func handleSuspected(_ session: Session) {
        uplink(of: session)?.handleSuspected()
        choose()
    }

    func handleRecovered(_ session: Session) {
        uplink(of: session)?.handleRecovered()
        choose()
    }

    func handleLost(_ session: Session, _ carrier: Carrier, _ reason: String) { uplink(of: session)?.handleLost(carrier, reason) }

    func handleSessionEnded(_ session: Session) {
        guard !relay.stopping.isClosing else { return }
        uplink(of: session)?.handleSessionEnded(session)
        choose()
    }

    func handleReloaded() { for uplink in all { uplink.handleReloaded() } }

    /// The proxy's password, as its file has it now.
    func readProxyCredentials() throws(StartFault) -> ProxyHandshake.Credentials? { try relay.configuration.proxy?.credentials() }

    /// For the next attempt.
    func use(_ credentials: ProxyHandshake.Credentials?) { proxyCredentials = credentials }

    func pathMayHaveChanged() { for uplink in all { uplink.pathMayHaveChanged() } }

    func networkChanged() { for uplink in all { uplink.networkChanged() } }

    func reconnect() { for uplink in all { uplink.reconnect() } }

    /// Another configuration has other origins for users of the server, which learns them by HELLO.
    func handleOriginsChanged() { for uplink in uplinks where uplink.session.link.hasCarrier { uplink.reconnect() } }

    // MARK: Handing over

    func suspend() {
        requests.closeAll()
        for uplink in all { uplink.suspend() }
    }

    var isQuiet: Bool { requests.isQuiet }

    func resume() {
        for uplink in all { uplink.run() }
        choose()
        loss.run()
    }

    func archive(_ session: Session, _ archive: inout StateArchive) throws(StateFault) {
        record = archive.isSaving ? uplink(of: session)?.record ?? Uplink.Record() : Uplink.Record()
        try record.archive(&archive)
    }

    func stamp(of session: Session) -> UInt64 { uplink(of: session)?.recordStamp ?? 0 }

    /// The first session of a server replaces the one that was made at the start. A server that the list does not name any more may have
    /// another name now. One without a server is that of pending streams.
    func restored(_ session: Session) {
        guard !record.server.isEmpty || pending != nil else { return pending = session }
        let rank = relay.configuration.servers.firstIndex { "\($0)" == record.server } ?? 0
        if record.isExtra { return add(rank: rank, isExtra: true, session: session).restore(session, record) }
        let homes = uplinks.filter { $0.rank == rank }.reduce(into: Set<Address>()) { $0.formUnion($1.home.addresses) }
        let uplink =
            uplinks.first { $0.rank == rank && !$0.session.endpoint.isEstablished && !$0.session.isPrecious }
            ?? add(rank: rank, avoiding: homes, session: session)
        uplink.restore(session, record)
    }

    // MARK: The end

    /// Since when no server can be reached. Nil: one can.
    var downSince: UInt64? {
        var latest: UInt64 = 0
        for uplink in uplinks {
            guard let since = uplink.session.link.downSince else { return nil }
            latest = max(latest, since)
        }
        return latest
    }

    var unreadiness: String? {
        guard !uplinks.contains(where: \.session.link.hasCarrier), case .detached(let since) = current.session.link else { return nil }
        let seconds = relay.age(of: since) / 1_000_000_000
        return "no carrier for \(seconds) s" + (current.lastFailure.isEmpty ? "" : ": \(current.lastFailure)")
    }

    var summary: Int { uplinks.map { !$0.session.link.hasCarrier ? 0 : $0.session.link.isDown ? 1 : 2 }.max() ?? 0 }
    var summaryWords: String { ["no carrier, users wait", "carrier suspected", "carrier up"][summary] }

    func drain() {
        relay.listeners.close()
        // Users of the server go to another client, or wait for one.
        if !relay.configuration.reverseMappings.isEmpty { reconnect() }
    }

    func sayGoodbye() {
        relay.listeners.close()
        for uplink in all { uplink.stop() }
        relay.sessions.sayGoodbye(.done)
    }

    /// Ends the process when another attempt has no purpose.
    func giveUpIfUseless(_ uplink: Uplink, _ failure: ReachFailure) {
        guard givenUp == nil, let failing = uplink.failing, let fault = fault(uplink, failure, failing) else { return }
        givenUp = fault
        relay.request(gently: false)
    }

    private func fault(_ uplink: Uplink, _ failure: ReachFailure, _ failing: (since: UInt64, refusedSince: UInt64?, lasting: Int)) -> StartFault? {
        if uplink.session.endpoint.isEstablished {
            let isGone = failing.refusedSince.map { relay.age(of: $0) >= Policy.goneAfter.nanoseconds } ?? false
            return
                isGone && relay.configuration.stream != nil && uplink.session.userCount > 0
                ? StartFault(
                    .unavailable, "the tele server at \(uplink.target) is no longer running, the connection is lost",
                    hint: "was the host restarted?")
                : nil
        }
        guard !hasReached, let seconds = relay.configuration.exitsOnFailureAfterSeconds else { return nil }
        let age = relay.age(of: failing.since)
        let isLasting =
            uplinks.count >= relay.configuration.servers.count
            && uplinks.allSatisfy { ($0.failing?.lasting ?? 0) >= Policy.lastingFailures.count } && age >= Policy.lastingFailures.time.nanoseconds
        guard isLasting || age >= UInt64(seconds) * 1_000_000_000 else { return nil }
        return StartFault(
            failure.isDenied ? .denied : .unavailable, "cannot reach the server at \(uplink.target) (\(failure.reason))", hint: failure.hint)
    }
}
