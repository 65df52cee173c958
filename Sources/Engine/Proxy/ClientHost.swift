import CSlab
import Glibc
import Logging
import Loop
import Tunnel
import Wire

/// The tele client: accepts users, opens a stream for each on the warm carrier, and dials the tele server for ever.
///
/// While it has no carrier, or doubts the one it has, it starts a fresh connect at short fixed intervals and abandons old
/// ones: TCP's own retransmission time-outs double, so an old attempt wakes up long after the path is whole. The old
/// carrier stays until a new one has won.
final class ClientHost {
    /// An attempt is abandoned when it is this old.
    static let attemptNanoseconds: UInt64 = 3_000_000_000
    /// A second HELLO goes out beside an unanswered one after this, or after three times what the connect took.
    static let greetingNanoseconds: UInt64 = 500_000_000
    static let maximumCandidates = 16

    unowned let hub: Hub
    let target: HostPort
    var session: SessionHost
    /// Carriers that have not won: connecting, connected, greeted. Oldest first.
    var candidates: [Carrier] = []
    var pace: ProbePace
    var addresses: [Address] = []
    private var nextAddress = 0
    private var isLookingUp = false
    private var lookupStartedAt: UInt64 = 0
    private var probeAt = UInt64.max
    private var outageSince: UInt64?
    private var lastFailure = ""
    private var wasToldOfFailure = false
    private var refusalCode: CloseCode?

    init(_ hub: Hub, target: HostPort) {
        self.hub = hub
        self.target = target
        pace = ProbePace()
        session = ClientHost.makeSession(hub)
    }

    private static func makeSession(_ hub: Hub) -> SessionHost {
        let limits = Endpoint.Limits(retained: hub.configuration.bufferByteCount,
                                     received: min(hub.configuration.bufferByteCount, hub.configuration.memoryByteCount / 4),
                                     streams: hub.configuration.maximumStreams)
        return hub.sessions.insert { index, generation in
            SessionHost(index: index, generation: generation, role: .client, limits: limits, now: hub.now)
        }
    }

    func start() {
        session.detachedAt = hub.now
        probeSoon(after: 0)
    }

    // MARK: Users

    var mayAccept: Bool { session.endpoint.canOpen }

    func handleAccepted(_ fd: Int32) {
        guard session.endpoint.canOpen else { return hub.loop.close(fd) }
        let isLocal = Socket.peerAddress(fd)?.isLoopback ?? false
        Socket.tune(fd, isLocal)
        Socket.tuneUser(fd)
        let index = hub.users.insert(fd: fd, flags: .hasStream)
        hub.users[index].pointee.session = .passUnretained(session)
        hub.users[index].pointee.slot = session.endpoint.open(owner: index, target: 0, now: hub.instant)
        queue_init(&hub.users[index].pointee.inbound, 0)
        queue_init(&hub.users[index].pointee.outbound, 0)
        hub.armReceive(index)
        hub.markDirty(session)
    }

    // MARK: Probing

    private var needsCarrier: Bool { session.carrier == nil || session.endpoint.isSuspected }

    func handleSuspected() { probeSoon(after: 0) }

    /// The suspicion was wrong. A candidate that has said HELLO may own the session already, so it runs its course.
    func handleRecovered() {
        outageSince = nil
        for carrier in candidates where carrier.state != .greeted { hub.close(carrier) }
        candidates.removeAll { $0.state == .closing }
        if candidates.isEmpty { session.endpoint.withdrawOffers() }
    }

    /// Links, addresses or routes changed, or time was lost: try at once, whatever the pace.
    func pathMayHaveChanged() {
        pace.restart(now: hub.now)
        if needsCarrier {
            probeSoon(after: 0)
        } else {
            session.endpoint.doubt(now: hub.instant)
            hub.markDirty(session)
        }
    }

    private func probeSoon(after nanoseconds: UInt64) {
        let at = hub.now + nanoseconds
        guard at < probeAt else { return }
        probeAt = at
        hub.timers.add(Operation.probe.token(), at: at)
    }

    func handleProbeTimer() {
        guard hub.now >= probeAt else { return }
        probeAt = .max
        guard needsCarrier, !hub.isStopped else { return }
        if outageSince == nil {
            outageSince = hub.now
            pace.restart(now: hub.now)
        }
        probe()
        probeSoon(after: pace.next(now: hub.now, using: &hub.generator))
    }

    private func probe() {
        lookUpIfUseful()
        guard !addresses.isEmpty else { return }
        while candidates.count >= ClientHost.maximumCandidates { hub.lost(candidates[0], "abandoned for a newer attempt") }
        let address = addresses[nextAddress % addresses.count]
        nextAddress += 1
        do throws(SystemError) {
            let fd = try Socket.dialling(address)
            let carrier = hub.addCarrier(fd: fd, peer: address, state: .connecting)
            let token = Operation.carrierConnect.token(carrier.index, carrier.generation)
            carrier.connectSubmitted = hub.loop.connect(fd, address, token)
            guard carrier.connectSubmitted else { return hub.close(carrier) }
            candidates.append(carrier)
            hub.timers.add(Operation.carrierDeadline.token(carrier.index, carrier.generation),
                           at: hub.now + ClientHost.attemptNanoseconds)
        } catch {
            noteFailure("\(error)")
        }
    }

    /// Names are looked up again while an outage lasts, off the loop; the last good addresses stay in use meanwhile.
    private func lookUpIfUseful() {
        guard !isLookingUp, addresses.isEmpty || hub.now - lookupStartedAt > 5_000_000_000 else { return }
        lookupStartedAt = hub.now
        isLookingUp = hub.resolver.look(up: target, token: Operation.probe.token().rawValue)
    }

    func handleLookup(_ answer: Resolver.Answer) {
        guard answer.token == Operation.probe.token().rawValue else { return }
        isLookingUp = false
        switch answer.result {
        case .success(let found):
            let isFirst = addresses.isEmpty
            if found != addresses {
                addresses = found
                nextAddress = 0
            }
            if isFirst && needsCarrier { probe() }
        case .failure(let failure):
            noteFailure("cannot resolve \(target.host): \(failure)")
        }
    }

    // MARK: Candidates

    func handleConnected(_ carrier: Carrier, _ error: SystemError?) {
        if let error { return hub.lost(carrier, error.description) }
        carrier.state = .connected
        carrier.connectNanoseconds = hub.now - carrier.openedAt
        hub.armReceive(carrier)
        greetNext()
    }

    /// HELLO goes out on one candidate at a time: the newest, unless another's is still fresh.
    private func greetNext() {
        guard needsCarrier else { return }
        let freshest = candidates.last { $0.state == .greeted }
        if let freshest, hub.now < freshest.greetedAt + max(ClientHost.greetingNanoseconds, 3 * freshest.connectNanoseconds) {
            return
        }
        guard let carrier = candidates.last(where: { $0.state == .connected }) else { return }
        greet(carrier)
    }

    private func greet(_ carrier: Carrier) {
        session.attempt += 1
        let (offer, limit) = session.endpoint.offer(earlyMaximum: Specification.earlyMaximum)
        let isNew = !session.endpoint.isEstablished
        let hello = Hello(identity: session.identity, attempt: session.attempt, received: offer.received,
                          replay: offer.replay, earlyByteCount: UInt32(offer.earlyByteCount), dataLimit: limit)
        guard let bytes = hello.encoded(secret: isNew ? nil : session.secret) else {
            return hub.lost(carrier, "cannot compute a proof")
        }
        carrier.state = .greeted
        carrier.session = session
        carrier.offer = offer
        carrier.attempt = session.attempt
        carrier.greetedAt = hub.now
        carrier.greeting = bytes
        carrier.early = (offer.replay, offer.earlyByteCount)
        hub.sendGreeting(carrier, &session.store)
    }

    /// The server's answer to HELLO.
    func readAnswer(_ carrier: Carrier) {
        let bytes = UnsafeRawBufferPointer(start: carrier.block! + carrier.parsed, count: carrier.filled - carrier.parsed)
        let decoded: (frame: Frame, byteCount: Int)?
        do throws(ProtocolFault) {
            decoded = try decodeFrame(bytes.bytes)
        } catch {
            return hub.lost(carrier, "the other side does not speak tele (\(error.rule))")
        }
        guard let (frame, count) = decoded else { return }
        carrier.parsed += count
        switch frame {
        case .welcome(let welcome):
            accept(welcome, UnsafeRawBufferPointer(rebasing: bytes[..<count]), carrier)
        case .refuse(let refusal):
            refused(refusal, carrier)
        default:
            hub.lost(carrier, "the other side does not speak tele")
        }
    }

    private func accept(_ welcome: Welcome, _ bytes: UnsafeRawBufferPointer, _ carrier: Carrier) {
        let isNew = !session.endpoint.isEstablished
        guard carrier.session === session, let offer = carrier.offer, welcome.attempt == carrier.attempt,
              welcome.version == Specification.version else { return hub.lost(carrier, "an answer to another question") }
        if !isNew {
            let proven = UnsafeRawBufferPointer(rebasing: bytes[..<min(bytes.count, Welcome.provenByteCount)])
            guard welcome.identity == session.identity, welcome.isProven(session.secret, over: proven) else {
                return hub.lost(carrier, "the server does not know this session's secret")
            }
        }
        let replayed = session.endpoint.sent - min(session.endpoint.sent, welcome.received)
        do throws(ProtocolFault) {
            try session.endpoint.resume(offer, welcome, now: hub.instant)
        } catch {
            return hub.violated(session, error)
        }
        if isNew {
            session.identity = welcome.identity
            session.secret = welcome.secret
        }
        carrier.state = .established
        if let old = session.carrier { hub.close(old) }
        session.carrier = carrier
        if carrier.isGreetingSent && !carrier.sendSubmitted { session.endpoint.greetingSent() }
        keepOnlyLaterGreeted(than: carrier)
        noteUp(carrier, isNew: isNew, replayed: replayed)
        hub.markDirty(session)
        hub.armAccept()
    }

    /// A later HELLO that is under way will take the session over when the server reads it: its carrier must live. All
    /// others have lost (docs/protocol.md §4.19).
    private func keepOnlyLaterGreeted(than winner: Carrier) {
        for loser in candidates where loser !== winner && !(loser.state == .greeted && loser.attempt > winner.attempt) {
            hub.close(loser)
        }
        candidates.removeAll { $0 === winner || $0.state == .closing }
        for carrier in candidates { if let offer = carrier.offer { session.endpoint.keep(offer) } }
    }

    private func refused(_ refusal: Refusal, _ carrier: Carrier) {
        switch refusal.code {
        case .sessionUnknown where session.endpoint.isEstablished:
            hub.log.warning("session lost", metadata: [
                "session": "\(session.name)", "streams": "\(session.endpoint.streamCount)",
                "reason": "the server does not know it any more", "hint": "was the server restarted? users are reset"])
            hub.close(carrier)
            candidates.removeAll { $0 === carrier }
            let lost = session
            hub.discard(lost)
            handleSessionLost(lost)
        default:
            refusalCode = refusal.code
            hub.lost(carrier, "refused by the server: \(refusal.reason)")
        }
    }

    // MARK: Losses

    func handleLost(_ carrier: Carrier, _ wasEstablished: Bool, _ reason: String) {
        if wasEstablished, session.carrier === carrier {
            hub.log.warning("carrier lost", metadata: [
                "session": "\(session.name)", "peer": "\(carrier.peer)", "reason": "\(reason)",
                "unacknowledged": "\(session.endpoint.retainedByteCount)", "streams": "\(session.endpoint.streamCount)"])
            hub.detach(session)
            wasToldOfFailure = true
            probeSoon(after: 0)
            greetNext()
            return
        }
        candidates.removeAll { $0 === carrier }
        noteFailure(reason)
        if candidates.isEmpty, !needsCarrier { session.endpoint.withdrawOffers() }
        greetNext()
    }

    /// The server lost or ended the session: its users were reset; new ones get a new session at once.
    func handleSessionLost(_ lost: SessionHost) {
        guard lost === session, !hub.isStopped else { return }
        for carrier in candidates { hub.close(carrier) }
        candidates = []
        session = ClientHost.makeSession(hub)
        session.detachedAt = hub.now
        outageSince = nil
        probeSoon(after: 0)
        hub.armAccept()
    }

    // MARK: Words

    private func noteUp(_ carrier: Carrier, isNew: Bool, replayed: UInt64) {
        var facts: Logger.Metadata = ["session": "\(session.name)", "peer": "\(carrier.peer)"]
        if let path = PathFacts(carrier.fd) {
            facts["rtt"] = "\(path.roundTripMicroseconds)us"
            session.endpoint.pathMeasured(.microseconds(UInt64(path.roundTripMicroseconds)))
        }
        let since = [session.suspectedAt, session.detachedAt].compactMap { $0 }.min()
        if isNew {
            hub.log.info("carrier up", metadata: facts)
        } else {
            facts["after"] = "\(hub.seconds(hub.now - (since ?? hub.now)))"
            facts["replayed"] = "\(replayed)"
            facts["epoch"] = "\(session.endpoint.epoch)"
            hub.log.info("session resumed", metadata: facts)
        }
        session.suspectedAt = nil
        session.detachedAt = nil
        outageSince = nil
        wasToldOfFailure = false
        lastFailure = ""
    }

    /// The first failure of an outage is told, and each time the reason changes; the rest is silence.
    private func noteFailure(_ reason: String) {
        guard needsCarrier, reason != lastFailure else { return }
        lastFailure = reason
        hub.log.warning("cannot reach the server", metadata: [
            "address": "\(target)", "reason": "\(reason)",
            "hint": "is \"tele -server\" running there? retrying, nothing is lost"])
    }
}
