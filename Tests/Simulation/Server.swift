import Tunnel
import Wire

/// The tele server: sessions by identity, with and without carriers.
struct Server {
    var sessions: [Session] = []
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
        let session: Session
        if hello.identity == .none {
            session = makeSession(.server)
            session.identity = SessionIdentity(high: chance.next(), low: UInt64(session.number))
            session.secret = Octets32(chance.next(), chance.next(), chance.next(), chance.next())
            server.sessions.append(session)
        } else {
            guard let known = server.sessions.first(where: { $0.identity == hello.identity && !$0.isOver }),
                  hello.proof == Proof.of(hello, secret: known.secret) else {
                return refuse(end, .sessionUnknown)
            }
            guard isNewer(hello.attempt, than: known.attempt) else { return refuse(end, .stale) }
            session = known
        }
        accept(end, hello, session)
    }

    /// An older HELLO can never displace a newer one.
    private func isNewer(_ attempt: UInt64, than accepted: UInt64) -> Bool {
        #if CANARIES
        if Canary.selected == .olderAttempt { return attempt != accepted }
        #endif
        return attempt > accepted
    }

    private func accept(_ end: End, _ hello: Hello, _ session: Session) {
        let from: UInt64, limit: UInt64
        do {
            guard let answer = try session.endpoint.accept(hello, now: now(.server)) else { return refuse(end, .stale) }
            (from, limit) = answer
        } catch {
            return sessionFaulted(session, error)
        }
        require(hello.attempt > session.attempt, "an older attempt displaced a newer one")
        session.attempt = hello.attempt
        if let old = session.end { close(old, orderly: false) }
        end.state = .established
        end.session = session
        session.end = end
        var welcome = Welcome(identity: session.identity, secret: hello.identity == .none ? session.secret : .zero,
                              attempt: hello.attempt, epoch: session.endpoint.epoch, received: from, dataLimit: limit,
                              maximumStreams: UInt64(session.endpoint.limits.streams),
                              initialCredit: Specification.initialCreditMaximum)
        if hello.identity != .none { welcome.proof = Proof.of(welcome, secret: session.secret) }
        var writer = ByteWriter(end.preamble)
        welcome.encode(into: &writer)
        submit(end, Send(preamble: 0..<writer.count, of: session))
        receive(end, session)
        touch(session)
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
        session.endpoint.carrierLost()
        touch(session)
    }

    /// The hold of sessions that nobody will come back to is over.
    func expireSessions() {
        for session in server.sessions where (session.end == nil || session.endpoint.isSuspected)
            && session.identity != client.session.identity {
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
            loseClientSession()
        } else {
            for session in server.sessions { endSession(session) }
            server.sessions = []
        }
    }
}
