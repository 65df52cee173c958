import Control
import Loop
import Time
import Tunnel
import Wire

/// A second connection to the server of an uplink, over another of this host's interfaces: connected, authenticated and idle. When the carrier is
/// late, silent or lost, the session continues over it at once (docs/protocol.md 4.27). A host with one way to the server has none.
///
///     none ──the carrier works, and there is another interface──▶ connecting ─▶ (securing) ─▶ asking ─WELCOME─▶ ready ─▶ a candidate of the dialer
///      ▲                                                              └────────────failed, refused, too old───────┴──lost──┐
///      └──────────────────────────────after a pause───────────────────────────────────────────────────────────────────────┘
final class Standby: Aside {
    unowned(unsafe) private let uplink: Uplink
    unowned(unsafe) private let relay: RelayProcess
    /// While it is being made; when it is ready it is the session's.
    private var made: Carrier?
    private var plan = StandbyPlan()
    /// The preferred interface when they were looked at last: to look costs system calls that wait for the kernel's lock on all networks, and
    /// has no place in the moment of a failure.
    private var preferred: UInt32?

    init(_ uplink: Uplink) { (self.uplink, relay) = (uplink, uplink.relay) }

    private var session: Session { uplink.session }

    func isMaking(_ carrier: Carrier) -> Bool { made === carrier }

    // MARK: To have one

    /// After each change of the carrier, of the network, and when time has passed.
    func review() {
        guard let carrier = session.carrier, session.isHealthy, relay.stopping.isRunning, !relay.handover.isUnderWay,
            relay.configuration.paths != .usual, relay.configuration.proxy == nil, !carrier.peer.isLoopback, carrier.peer.path == nil
        else { return cancelTimer() }
        let interfaces = uplink.interfaces(to: carrier.peer)
        preferred = interfaces.first?.index
        let own = interface(of: carrier, among: interfaces)
        let others = interfaces.filter { $0.index != own }
        if let ready = session.standby {
            guard !others.contains(where: { $0.index == ready.interface }) else { return returnIfDue(ready, preferred: interfaces[0].index) }
            // Its interface is gone, or the carrier has moved there.
            relay.sessions.closeStandby(of: session)
        }
        guard !others.isEmpty, own != nil else {
            if let made { close(made) }
            return cancelTimer()
        }
        if let made { return setTimer(Instant(nanoseconds: made.openedAt) + Policy.standbyMaximum) }
        guard relay.instant >= plan.pausedUntil else { return setTimer(plan.pausedUntil) }
        dial(Way(address: carrier.peer, interface: others[plan.choice(among: others.count)].index))
    }

    /// The preferred path is the user's choice, or that of the routes: the other one may be metered. It is taken again when it has been ready for
    /// a while, longer the more often it was left lately.
    private func returnIfDue(_ ready: Carrier, preferred: UInt32) {
        guard ready.interface == preferred else { return cancelTimer() }
        let due = plan.returnAt(now: relay.instant)
        guard relay.instant >= due else { return setTimer(due) }
        cancelTimer()
        takeOver()
    }

    /// The interface that the carrier goes through. Nil: it is not known any more.
    private func interface(of carrier: Carrier, among interfaces: [Interface]) -> UInt32? {
        if carrier.interface != 0 { return carrier.interface }
        let source = Socket.localAddress(carrier.fd)?.withoutPort
        guard let found = interfaces.first(where: { $0.source == source }) else { return nil }
        carrier.interface = found.index
        return found.index
    }

    /// A carrier has just been attached: the session's bytes go first, and interfaces are looked at when they have gone.
    func reviewSoon() { setTimer(relay.instant + Policy.standbySoon) }

    /// The network changed: what failed before may work now.
    func handleNetworkChanged() {
        plan.networkChanged()
        review()
    }

    func handleTimer() {
        if let made, relay.now >= made.openedAt + Policy.standbyMaximum.nanoseconds {
            close(made)
            pause()
        }
        if session.isHealthy { uplink.refreshWays() }
        review()
    }

    private func dial(_ way: Way) {
        guard let carrier = uplink.open(way) else { return pause() }
        made = carrier
        setTimer(relay.instant + Policy.standbyMaximum)
        if !relay.carriers.connect(carrier, to: way.address) { handleFailed(carrier) }
    }

    private func setTimer(_ at: Instant) { relay.timers.set(Operation.standby.token(uplink.number), at: at.nanoseconds) }
    private func cancelTimer() { relay.timers.cancel(Operation.standby.token(uplink.number)) }

    private func pause() {
        plan.failed(now: relay.instant)
        setTimer(plan.pausedUntil)
    }

    // MARK: While it is made

    func handleConnected(_ carrier: Carrier, _ error: SystemError?) {
        guard error == nil else { return handleFailed(carrier) }
        carrier.state = .connected
        relay.carriers.reader.arm(carrier)
        guard relay.credentials != nil else { return ask(carrier) }
        uplink.secure(carrier)
    }

    /// HELLO without an attempt: its number, which must grow, is the time.
    func ask(_ carrier: Carrier) {
        guard session.isHealthy, session.endpoint.isEstablished else { return handleFailed(carrier) }
        let hello = Hello(identity: session.identity, attempt: 0, received: 0, replay: 0, earlyByteCount: 0, dataLimit: relay.now)
        guard let binding = carrier.binding, let bytes = hello.encoded(secret: session.secret, on: binding) else { return handleFailed(carrier) }
        carrier.state = .greeted
        carrier.hasGreeted = true
        carrier.session = session
        carrier.greeting = Carrier.Greeting(bytes: bytes)
        relay.carriers.writer.sendGreeting(carrier)
    }

    func handleWelcome(_ welcome: Welcome, _ proven: UnsafeRawBufferPointer, _ carrier: Carrier) {
        guard carrier.session === session, welcome.attempt == 0, welcome.identity == session.identity, let binding = carrier.binding,
            welcome.isProven(session.secret, over: proven, on: binding)
        else { return handleFailed(carrier) }
        made = nil
        plan.becameReady(now: relay.instant)
        relay.sessions.standBy(carrier, for: session)
        relay.events.note(.standbyUp(session, carrier.peer, interface: Interface.name(carrier.interface)))
        // The carrier may be late already.
        review()
    }

    func handleRefused(_ carrier: Carrier) {
        close(carrier)
        plan.wasRefused(now: relay.instant)
        setTimer(plan.pausedUntil)
    }

    func handleFailed(_ carrier: Carrier) {
        close(carrier)
        pause()
    }

    /// One that was ready has ended.
    func handleLost() {
        pause()
        review()
    }

    private func close(_ carrier: Carrier) {
        if made === carrier { made = nil }
        relay.carriers.close(carrier)
    }

    /// It was made with credentials that were read again.
    func renew() {
        end()
        review()
    }

    /// The process, the session or the uplink ends.
    func end() {
        if let made { close(made) }
        relay.sessions.closeStandby(of: session)
        cancelTimer()
    }

    // MARK: To use it

    /// The session continues over it, if there is one. The old carrier stays until the server has answered.
    func takeOver() {
        guard let carrier = session.standby, !carrier.isOver, carrier.greeting.isSent, !carrier.inFlight.send, let way = carrier.way else { return }
        if let preferred, session.carrier?.interface == preferred { plan.departed(now: relay.instant) }
        relay.sessions.release(standby: carrier)
        carrier.state = .connected
        let connectTook = PathFacts(carrier.fd).map { Interval.microseconds(UInt64($0.leastRoundTripMicroseconds)) } ?? .zero
        uplink.adopt(carrier, way, connectTook: connectTook)
    }

    /// An answer is late: a path that is only slow now and then is not left again and again.
    func hurry() {
        guard session.standby != nil, plan.mayHurry(now: relay.instant) else { return }
        takeOver()
    }
}
