import Loop
import Time
import Tunnel
import Wire

/// Makes the subflows of a client's carrier (docs/protocol.md 4.28): as many as are wanted, over the carrier's own path. When two are there, the
/// carrier's bytes leave its own connection, and the server's do the same.
final class SubflowMaker: Aside {
    unowned(unsafe) private let uplink: Uplink
    unowned(unsafe) private let relay: RelayProcess
    private var made: [Carrier] = []
    /// The server has refused one for the carrier of this epoch.
    private var refusedBy: UInt32?
    /// Some could not be made: a firewall may ban hosts that try too often, and then the next carrier as well.
    private var pausedUntil = Instant(nanoseconds: 0)
    private var pause = Interval.zero

    init(_ uplink: Uplink) { (self.uplink, relay) = (uplink, uplink.relay) }

    private var session: Session { uplink.session }

    func isMaking(_ carrier: Carrier) -> Bool { made.contains { $0 === carrier } }

    /// The server knows subflows, and nothing is between it and this client that is dialled instead.
    var isPossible: Bool { uplink.subflowsMaximum > 1 && relay.configuration.proxy == nil }

    /// Makes what is missing; asked each second, so what failed is tried again then.
    func want(_ count: Int) {
        for carrier in made where relay.now >= carrier.openedAt + Policy.standbyMaximum.nanoseconds { handleFailed(carrier) }
        guard count > 1, relay.instant >= pausedUntil, isPossible, session.isHealthy, relay.stopping.isRunning, !relay.handover.isUnderWay,
            let carrier = session.carrier,
            refusedBy != session.endpoint.epoch
        else { return }
        let missing = min(count, uplink.subflowsMaximum, Specification.subflowsMaximum) - (carrier.subflows?.all.count ?? 0) - made.count
        guard missing > 0, relay.sessions.openSubflows(session, carrier) != nil else { return }
        for _ in 0..<missing { dial(Way(address: carrier.peer, interface: carrier.way?.interface ?? 0)) }
    }

    private func dial(_ way: Way) {
        guard let carrier = uplink.open(way) else { return }
        made.append(carrier)
        if !relay.carriers.connect(carrier, to: way.address) { handleFailed(carrier) }
    }

    // MARK: While they are made

    func handleConnected(_ carrier: Carrier, _ error: SystemError?) {
        guard error == nil else { return handleFailed(carrier) }
        carrier.state = .connected
        relay.carriers.reader.arm(carrier)
        guard relay.credentials != nil else { return ask(carrier) }
        uplink.secure(carrier)
    }

    /// HELLO without an attempt: it names the carrier's epoch, and a number that no other subflow of that carrier has.
    func ask(_ carrier: Carrier) {
        guard session.isHealthy, let subflows = session.carrier?.subflows, let number = subflows.freeNumber else { return close(carrier) }
        subflows.use(number)
        (carrier.subflowNumber, carrier.subflowEpoch) = (number, session.endpoint.epoch)
        let hello = Hello(
            identity: session.identity, attempt: 0, received: UInt64(session.endpoint.epoch), replay: 0, earlyByteCount: 0, dataLimit: number)
        guard let binding = carrier.binding, let bytes = hello.encoded(secret: session.secret, on: binding) else { return handleFailed(carrier) }
        carrier.state = .greeted
        carrier.hasGreeted = true
        carrier.session = session
        carrier.greeting = Carrier.Greeting(bytes: bytes)
        relay.carriers.writer.sendGreeting(carrier)
    }

    func handleWelcome(_ welcome: Welcome, _ proven: UnsafeRawBufferPointer, _ carrier: Carrier) {
        guard carrier.session === session, welcome.attempt == 0, welcome.identity == session.identity, welcome.epoch == session.endpoint.epoch,
            let subflows = session.carrier?.subflows, let binding = carrier.binding, welcome.isProven(session.secret, over: proven, on: binding)
        else { return handleFailed(carrier) }
        made.removeAll { $0 === carrier }
        pause = .zero
        subflows.join(carrier, number: carrier.subflowNumber)
        guard subflows.all.count == 2 else { return }
        session.endpoint.spread()
        relay.sessions.markDirty(session)
        relay.events.note(.carrierSpread(session, carrier.peer))
    }

    /// There is no room: nothing more is asked for this carrier. Or it was meant for one before.
    func handleRefused(_ carrier: Carrier) {
        refusedBy = carrier.subflowEpoch
        close(carrier)
    }

    /// Twice as long each time, in a row.
    func handleFailed(_ carrier: Carrier) {
        close(carrier)
        guard relay.instant >= pausedUntil else { return }
        pause = min(max(pause * 2, Policy.subflowPause.lowerBound), Policy.subflowPause.upperBound)
        pausedUntil = relay.instant + pause
    }

    private func close(_ carrier: Carrier) {
        made.removeAll { $0 === carrier }
        relay.carriers.close(carrier)
    }

    /// The carrier they are meant for has ended.
    func end() {
        for carrier in made { close(carrier) }
        refusedBy = nil
    }
}
