import Control
import Time
import Tunnel
import Wire

/// The tele server: the shipping registry, and the sessions that it knows by their numbers.
final class Server {
    var sessions: [Session] = []
    var registry: Registry

    init(_ plan: Plan) { registry = Registry(limits: Server.limits(plan)) }

    static func limits(_ plan: Plan) -> Registry.Limits {
        Registry.Limits(sessions: 1000, hold: Interval(nanoseconds: plan.hold), grantTotal: Int.max / 4,
                        grantMaximum: plan.limits[Side.server.rawValue].received)
    }
}

extension World {
    func newestServerSession() -> Session? { server.sessions.last }

    /// A carrier without a session brought bytes: HELLO, in parts.
    func serverReceived(_ end: End) {
        guard end.state == .handshaking else { return }  // Fenced or refused: whatever comes is dropped.
        let hello: Hello
        do {
            guard let whole = try Hello.decode(UnsafeRawBufferPointer(end.inbound.bytes).bytes) else { return }
            hello = whole.hello
            end.inbound.removeFirst(whole.byteCount)
        } catch {
            return require(false, "the server cannot read HELLO: \(error.rule)")
        }
        end.attempt = hello.attempt
        // Another server: it would begin a session of its own, which is not this story.
        if plan.strangerAddresses.contains(end.address) { return refuse(end, hello.identity == .none ? .stale : .sessionUnknown) }
        let verdict = server.registry.judge(hello, from: "", isDraining: false) { hello.proof == Proof.of(hello, secret: $0) }
        switch verdict {
        case .begin(let grant): begin(end, hello, grant)
        case .resume(let key): accept(end, hello, sessions[Int(key)])
        case .refuse(let code, _): refuse(end, code)
        }
    }

    private func begin(_ end: End, _ hello: Hello, _ grant: Int) {
        let session = makeSession(.server)
        session.endpoint.limits.received = min(session.endpoint.limits.received, grant)
        session.identity = SessionIdentity(high: chance.next(), low: UInt64(session.number))
        session.secret = Octets32(chance.next(), chance.next(), chance.next(), chance.next())
        let evicted = server.registry.admit(UInt32(session.number), session.identity, of: "",
                                            secret: session.secret, attempt: hello.attempt, grant: grant, now: now(.server))
        server.sessions.append(session)
        if let evicted { endSession(sessions[Int(evicted)]) }
        accept(end, hello, session)
    }

    private func accept(_ end: End, _ hello: Hello, _ session: Session) {
        let isNew = hello.identity == .none
        let from: UInt64, limit: UInt64
        bringIn(session)
        do {
            guard let answer = try session.endpoint.accept(hello, now: now(.server)) else { return refuse(end, .stale) }
            (from, limit) = answer
        } catch {
            return sessionFaulted(session, error)
        }
        require(hello.attempt > session.attempt, "an older attempt displaced a newer one")
        session.attempt = hello.attempt
        if !isNew { server.registry.resumed(UInt32(session.number), attempt: hello.attempt) }
        if let old = session.end { close(old, orderly: false) }
        end.state = .established
        end.session = session
        session.end = end
        var welcome = Welcome(identity: session.identity, secret: isNew ? session.secret : .zero,
                              attempt: hello.attempt, epoch: session.endpoint.epoch, received: from, dataLimit: limit,
                              maximumStreams: UInt64(session.endpoint.limits.streams),
                              initialCredit: Specification.initialCreditMaximum)
        if !isNew { welcome.proof = Proof.of(welcome, secret: session.secret) }
        var writer = ByteWriter(end.preamble)
        welcome.encode(into: &writer)
        submit(end, Send(preamble: 0..<writer.count, of: session))
        if plan.measuresPath { session.endpoint.pathMeasured(Interval(nanoseconds: 2 * plan.latency)) }
        receive(end, session)
        touch(session)
    }

    /// Frames came behind WELCOME.
    func noteProven(_ session: Session) {
        guard session.side == .server, !session.isProven else { return }
        session.isProven = true
        switch server.registry.proved(UInt32(session.number), now: now(.server)) {
        case .known: break
        case .welcome(let grant, let evicted):
            session.endpoint.setReceiveLimit(min(grant, plan.limits[Side.server.rawValue].received), now: now(.server))
            if let evicted { endSession(sessions[Int(evicted)]) }
        case .full: require(false, "no room for one session")
        }
        server.registry.checkInvariants()
    }

    private func refuse(_ end: End, _ code: CloseCode) {
        end.state = .refusing
        end.inbound.removeAll()
        var writer = ByteWriter(end.preamble)
        Refusal(code: code, attempt: end.attempt, reason: "").encode(into: &writer)
        submit(end, Send(preamble: 0..<writer.count, of: nil))
    }

    /// The server's socket says that the carrier is gone.
    func serverLost(_ end: End) {
        let session = end.session
        close(end, orderly: false)
        guard let session, session.end === end else { return }
        session.end = nil
        bringIn(session)
        session.endpoint.carrierLost()
        let isPrecious = session.endpoint.streamCount > 0 || session.endpoint.retainedByteCount > 0
        server.registry.detached(UInt32(session.number), isPrecious: isPrecious, now: now(.server))
        touch(session)
    }

    /// The registry's time; after the heal also the end of sessions that nobody will come back to.
    func expireSessions() {
        while let key = server.registry.nextExpired(now: now(.server)) { endSession(sessions[Int(key)]) }
        for session in server.sessions where (session.end == nil || session.endpoint.isSuspected)
            && session.identity != client.session.identity && isHealed {
            endSession(session)
        }
        server.sessions.removeAll { $0.isOver }
    }

    func restart(_ side: Side, keepsState: Bool) {
        restarts += 1
        for end in ends where end.side == side && end.isOpen && end.state != .connecting {
            side == .client ? clientLost(end) : serverLost(end)
        }
        guard !keepsState else { return }
        if side == .client {
            loseClientSession(carries: false)
        } else {
            for session in server.sessions { endSession(session) }
            server = Server(plan)
        }
    }
}
