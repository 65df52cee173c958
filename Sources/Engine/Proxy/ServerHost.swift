import CSlab
import Glibc
import Logging
import Loop
import Tunnel
import Wire

/// The tele server: accepts carriers, holds sessions while they have none, dials the origin for each stream.
final class ServerHost {
    /// A stranger must say HELLO within this, however slowly its bytes drip.
    static let helloNanoseconds: UInt64 = 10_000_000_000
    /// Carriers that may be without a session at a time; the oldest gives way.
    static let maximumHandshakes = 256
    /// The origin must accept within this, all its addresses together.
    static let originNanoseconds: UInt64 = 10_000_000_000

    unowned let hub: Hub
    let origin: HostPort
    private var byIdentity: [SessionIdentity: SessionHost] = [:]
    private var handshakes: [Carrier] = []
    private var originAddresses: [Address]
    private var isLookingUp = false
    private var grantedByteCount = 0
    private var unreachedCount = 0
    private var unreachedToldAt: UInt64 = 0

    /// `originAddresses`: as resolved at the start, possibly none.
    init(_ hub: Hub, origin: HostPort, originAddresses: [Address]) {
        self.hub = hub
        self.origin = origin
        self.originAddresses = originAddresses
    }

    // MARK: Carriers

    func handleAccepted(_ fd: Int32) {
        guard let peer = Socket.peerAddress(fd) else { return hub.loop.close(fd) }
        if handshakes.count >= ServerHost.maximumHandshakes { hub.close(handshakes.removeFirst()) }
        Socket.tune(fd, peer.isLoopback)
        let carrier = hub.addCarrier(fd: fd, peer: peer, state: .awaitingHello)
        handshakes.append(carrier)
        hub.timers.add(Operation.carrierDeadline.token(carrier.index, carrier.generation),
                       at: hub.now + ServerHost.helloNanoseconds)
        hub.armReceive(carrier)
    }

    func handleHandshakeFailed(_ carrier: Carrier, _ reason: String) {
        handshakes.removeAll { $0 === carrier }
        hub.log.debug("carrier ended before a session", metadata: ["peer": "\(carrier.peer)", "reason": "\(reason)"])
    }

    func readHello(_ carrier: Carrier) {
        guard !carrier.closesAfterGreeting else { return }
        let bytes = UnsafeRawBufferPointer(start: carrier.block! + carrier.parsed, count: carrier.filled - carrier.parsed)
        let decoded: (hello: Hello, byteCount: Int)?
        do throws(ProtocolFault) {
            decoded = try Hello.decode(bytes.bytes)
        } catch {
            hub.log.info("stranger turned away", metadata: ["peer": "\(carrier.peer)", "reason": "\(error.rule)"])
            return hub.lost(carrier, error.rule.description)
        }
        guard let (hello, count) = decoded else { return }
        carrier.parsed += count
        handshakes.removeAll { $0 === carrier }
        guard hello.versionMinimum <= Specification.version, hello.versionMaximum >= Specification.version else {
            return refuse(carrier, hello, .versionUnsupported, "this server speaks version \(Specification.version)")
        }
        if hello.identity == .none {
            begin(hello, carrier)
        } else {
            let proven = UnsafeRawBufferPointer(rebasing: bytes[..<min(count, Hello.provenByteCount)])
            resume(hello, proven, carrier)
        }
    }

    private func begin(_ hello: Hello, _ carrier: Carrier) {
        guard !hub.isDraining else { return refuse(carrier, hello, .stopping, "the server is stopping") }
        guard hello.replay == 0, hello.received == 0, hello.earlyByteCount == 0 else {
            return refuse(carrier, hello, .protocolViolation, "a new session starts at zero")
        }
        if hub.sessions.count >= hub.configuration.maximumSessions { evictOne() }
        guard hub.sessions.count < hub.configuration.maximumSessions else {
            hub.log.warning("session refused", metadata: [
                "peer": "\(carrier.peer)", "reason": "too many sessions", "limit": "\(hub.configuration.maximumSessions)"])
            return refuse(carrier, hello, .tooManySessions, "too many sessions")
        }
        let budget = hub.configuration.memoryByteCount / 2
        let share = min(hub.configuration.bufferByteCount, max(1 << 20, (budget - grantedByteCount) / 4))
        let limits = Endpoint.Limits(retained: hub.configuration.bufferByteCount, received: share,
                                     streams: hub.configuration.maximumStreams)
        let session = hub.sessions.insert { index, generation in
            SessionHost(index: index, generation: generation, role: .server, limits: limits, now: hub.now)
        }
        grantedByteCount += share
        session.identity = SessionIdentity(high: hub.generator.next(), low: hub.generator.next())
        session.secret = .random(using: &hub.generator)
        byIdentity[session.identity] = session
        establish(session, hello, carrier, isNew: true)
    }

    private func resume(_ hello: Hello, _ proven: UnsafeRawBufferPointer, _ carrier: Carrier) {
        // Unknown and unproven get the same answer: who does not hold the secret learns nothing.
        guard let session = byIdentity[hello.identity], hello.isProven(session.secret, over: proven) else {
            hub.log.info("resume refused", metadata: ["peer": "\(carrier.peer)", "reason": "session unknown"])
            return refuse(carrier, hello, .sessionUnknown, "session unknown")
        }
        guard hello.attempt > session.attempt else { return refuse(carrier, hello, .stale, "a newer attempt was accepted") }
        establish(session, hello, carrier, isNew: false)
    }

    private func establish(_ session: SessionHost, _ hello: Hello, _ carrier: Carrier, isNew: Bool) {
        let replayed = session.endpoint.sent - min(session.endpoint.sent, hello.received)
        let agreed: (received: UInt64, dataLimit: UInt64)?
        do throws(ProtocolFault) {
            agreed = try session.endpoint.accept(hello, now: hub.instant)
        } catch {
            refuse(carrier, hello, .protocolViolation, error.rule.description)
            return hub.violated(session, error)
        }
        guard let agreed else { return refuse(carrier, hello, .stale, "overtaken by its own acknowledgments") }
        session.attempt = hello.attempt
        let welcome = Welcome(identity: session.identity, secret: isNew ? session.secret : .zero, attempt: hello.attempt,
                              epoch: session.endpoint.epoch, received: agreed.received, dataLimit: agreed.dataLimit,
                              maximumStreams: UInt64(hub.configuration.maximumStreams),
                              initialCredit: Specification.initialCreditMaximum)
        let old = session.carrier
        session.carrier = carrier
        carrier.session = session
        carrier.state = .established
        if let old { hub.close(old) }
        guard let bytes = welcome.encoded(provenWith: isNew ? nil : session.secret) else {
            return hub.lost(carrier, "cannot compute a proof")
        }
        carrier.greeting = bytes
        hub.sendGreeting(carrier, nil)
        noteUp(session, carrier, isNew: isNew, replayed: replayed)
        hub.markDirty(session)
    }

    private func refuse(_ carrier: Carrier, _ hello: Hello, _ code: CloseCode, _ reason: String) {
        var bytes = [UInt8](repeating: 0, count: Specification.controlFrameMaximum)
        let count = bytes.withUnsafeMutableBytes { buffer in
            var writer = ByteWriter(buffer)
            Refusal(code: code, attempt: hello.attempt, reason: reason).encode(into: &writer)
            return writer.count
        }
        carrier.greeting = Array(bytes[..<count])
        carrier.closesAfterGreeting = true
        hub.sendGreeting(carrier, nil)
    }

    func handleLost(_ session: SessionHost, _ carrier: Carrier, _ reason: String) {
        hub.log.warning("carrier lost", metadata: [
            "session": "\(session.name)", "peer": "\(carrier.peer)", "reason": "\(reason)",
            "unacknowledged": "\(session.endpoint.retainedByteCount)", "streams": "\(session.endpoint.streamCount)",
            "held-for": "\(hub.configuration.holdSeconds)s"])
        hub.detach(session)
        hub.timers.add(Operation.sessionHold.token(session.index, session.generation),
                       at: hub.now + UInt64(hub.configuration.holdSeconds) * 1_000_000_000)
    }

    // MARK: Sessions

    func handleHoldExpired(_ session: SessionHost) {
        guard let since = session.detachedAt,
              hub.now >= since + UInt64(hub.configuration.holdSeconds) * 1_000_000_000 else { return }
        hub.log.warning("session expired", metadata: [
            "session": "\(session.name)", "streams": "\(session.endpoint.streamCount)",
            "reason": "no carrier for \(hub.configuration.holdSeconds)s"])
        hub.discard(session)
    }

    /// A session without a carrier gives way to a new one: one in which nothing was ever said before one that was used,
    /// then the one that has been alone for longest.
    private func evictOne() {
        let detached = hub.sessions.all.filter { $0.detachedAt != nil }
        let unused = detached.filter { $0.endpoint.received == 0 }
        guard let oldest = (unused.isEmpty ? detached : unused).min(by: { $0.detachedAt! < $1.detachedAt! }) else { return }
        hub.log.warning("session evicted", metadata: [
            "session": "\(oldest.name)", "reason": "too many sessions", "limit": "\(hub.configuration.maximumSessions)"])
        hub.discard(oldest)
    }

    /// Called for every session that ends, whatever the reason.
    func forget(_ session: SessionHost) {
        guard byIdentity.removeValue(forKey: session.identity) != nil else { return }
        grantedByteCount -= session.grantedByteCount
    }

    private func noteUp(_ session: SessionHost, _ carrier: Carrier, isNew: Bool, replayed: UInt64) {
        var facts: Logger.Metadata = ["session": "\(session.name)", "peer": "\(carrier.peer)"]
        if let path = PathFacts(carrier.fd) {
            session.endpoint.pathMeasured(.microseconds(UInt64(path.roundTripMicroseconds)))
        }
        if !isNew {
            let since = [session.suspectedAt, session.detachedAt].compactMap { $0 }.min()
            facts["after"] = "\(hub.seconds(hub.now - (since ?? hub.now)))"
            facts["replayed"] = "\(replayed)"
            facts["epoch"] = "\(session.endpoint.epoch)"
        }
        hub.log.info(isNew ? "session opened" : "session resumed", metadata: facts)
        session.suspectedAt = nil
        session.detachedAt = nil
    }

    // MARK: Origins

    /// The peer opened a stream: dial the origin for it.
    func handleOpened(_ session: SessionHost, _ slot: StreamSlot, target: UInt64) {
        guard target == 0, !hub.isDraining else {
            return session.endpoint.reset(slot, target == 0 ? .stopping : .unreachable, now: hub.instant)
        }
        guard hub.users.count < hub.maximumUsers else { return session.endpoint.reset(slot, .tooMany, now: hub.instant) }
        refreshOrigin()
        guard let fd = dial(0) else {
            return session.endpoint.reset(slot, originAddresses.isEmpty ? .unreachable : .tooMany, now: hub.instant)
        }
        let index = hub.users.insert(fd: fd, flags: [.hasStream, .connecting])
        let user = hub.users[index]
        user.pointee.session = .passUnretained(session)
        user.pointee.slot = slot
        queue_init(&user.pointee.inbound, 0)
        queue_init(&user.pointee.outbound, 0)
        session.endpoint.adopt(slot, owner: index)
        connect(index, user)
        hub.timers.add(Operation.originDeadline.token(index, user.pointee.generation),
                       at: hub.now + ServerHost.originNanoseconds)
    }

    /// A socket for the origin's address number `number`; nil when there is none, or no descriptor.
    private func dial(_ number: Int) -> Int32? {
        guard number < originAddresses.count else { return nil }
        return try? Socket.dialling(originAddresses[number])
    }

    private func connect(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>) {
        let address = originAddresses[min(user.pointee.addressIndex, originAddresses.count - 1)]
        let token = Operation.userConnect.token(index, user.pointee.generation)
        if hub.loop.connect(user.pointee.fd, address, token) {
            user.pointee.flags.insert(.connectSubmitted)
        } else {
            fail(index, SystemError(ENOMEM))
        }
    }

    func handleOriginConnected(_ index: UInt32, _ error: SystemError?) {
        let user = hub.users[index]
        guard user.pointee.flags.contains(.connecting), user.pointee.flags.contains(.hasStream) else { return }
        if let error {
            user.pointee.addressIndex += 1
            guard let fd = dial(user.pointee.addressIndex) else { return fail(index, error) }
            hub.loop.close(user.pointee.fd)
            user.pointee.fd = fd
            return connect(index, user)
        }
        user.pointee.flags.remove(.connecting)
        Socket.tuneUser(user.pointee.fd)
        hub.armReceive(index)
        hub.markDirty(index)
    }

    func handleOriginTimeout(_ index: UInt32) { fail(index, SystemError(ETIMEDOUT)) }

    private func fail(_ index: UInt32, _ error: SystemError) {
        let user = hub.users[index]
        guard let session = user.pointee.session?.takeUnretainedValue(), user.pointee.flags.contains(.hasStream) else {
            return
        }
        let code: ResetCode = switch error.code {
        case ECONNREFUSED, ECONNRESET: .refused
        case ETIMEDOUT: .timedOut
        case EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EAGAIN: .tooMany
        default: .unreachable
        }
        noteOrigin(error, session)
        session.endpoint.reset(user.pointee.slot, code, now: hub.instant)
        hub.markDirty(session)
        hub.close(index, abort: true)
    }

    /// One line a second at most: a thousand users of a dead origin are one piece of news.
    private func noteOrigin(_ error: SystemError, _ session: SessionHost) {
        unreachedCount += 1
        guard hub.now > unreachedToldAt + 1_000_000_000 else { return }
        hub.log.warning("origin not reached", metadata: [
            "session": "\(session.name)", "origin": "\(origin)", "reason": "\(error)", "times": "\(unreachedCount)",
            "hint": "is the user's server running? the user's connection was reset"])
        unreachedToldAt = hub.now
        unreachedCount = 0
    }

    /// A name may have moved: look it up again in the background; the next dial uses the answer.
    private func refreshOrigin() {
        guard !isLookingUp, !origin.host.isEmpty, !isNumeric else { return }
        isLookingUp = hub.resolver.look(up: origin, token: Operation.originDeadline.token().rawValue)
    }

    private lazy var isNumeric: Bool = origin.host.utf8.allSatisfy { byte in
        (0x30...0x39).contains(byte) || byte == 0x2e
    } || origin.host.contains(":")

    func handleLookup(_ answer: Resolver.Answer) {
        guard answer.token == Operation.originDeadline.token().rawValue else { return }
        isLookingUp = false
        switch answer.result {
        case .success(let found): originAddresses = found
        case .failure(let failure):
            hub.log.warning("cannot resolve the origin", metadata: ["origin": "\(origin)", "reason": "\(failure)"])
        }
    }
}
