import Tunnel
import Wire

/// The tele client: one session, one current carrier, and candidates beside or instead of it.
struct Client {
    var session: Session
    var attempt: UInt64 = 0
    var candidates: [End] = []
    var isDialPlanned = false
    /// Dials fail or hang until then.
    var refusedUntil: UInt64 = 0
    /// CLOSE is on its way. No HELLO may overtake it: the server would drop it with the old carrier.
    var isClosing = false
}

extension World {
    var candidatesMaximum: Int { client.isClosing ? 1 : 3 }

    var wantsCarrier: Bool {
        client.session.end == nil || client.session.endpoint.isSuspected && !client.isClosing
    }

    func considerDial() {
        guard wantsCarrier, !client.isDialPlanned, client.candidates.count < candidatesMaximum,
              !client.session.isOver else { return }
        client.isDialPlanned = true
        let delay = client.candidates.isEmpty ? chance.skewed(20_000) : 100_000 + chance.below(200_000)
        calendar.add(.dial, 0, at: time + microseconds(delay))
    }

    /// `isWanted`: although the current carrier seems well.
    func dial(anyway isWanted: Bool) {
        if !isWanted { client.isDialPlanned = false }
        guard wantsCarrier || isWanted, client.candidates.count < candidatesMaximum, !client.session.isOver else { return }
        let end = makeCarrier()
        client.candidates.append(end)
        calendar.add(.giveUp, end.number, at: time + plan.dialPatience)
        if time < client.refusedUntil {
            if chance.oneIn(2) { calendar.add(.down, end.number, at: time + latency()) }
        } else {
            calendar.add(.connected, end.number, at: time + 2 * latency())
        }
        considerDial()
    }

    func connected(_ end: End) {
        guard end.state == .connecting else { return }
        let serverEnd = ends[end.peer]
        serverEnd.state = .handshaking
        end.state = .handshaking
        outages += 1

        let session = client.session
        client.attempt += 1
        end.attempt = client.attempt
        let (offer, dataLimit) = session.endpoint.offer(earlyMaximum: plan.earlyMaximum)
        end.offer = offer
        var hello = Hello(identity: session.identity, attempt: end.attempt, received: session.endpoint.received,
                          replay: offer.replay, earlyByteCount: UInt32(offer.earlyByteCount), dataLimit: dataLimit)
        if session.identity != .none { hello.proof = Proof.of(hello, secret: session.secret) }
        var writer = ByteWriter(end.preamble)
        hello.encode(into: &writer)
        if session.identity != .none { oldHellos.append(hello) }
        submit(end, Send(preamble: 0..<writer.count, early: offer.earlyByteCount, from: offer.replay, of: session))
        touch(session)
    }

    /// A candidate got its answer, or a part of it.
    func clientReceived(_ end: End) {
        guard end.state == .handshaking else { return }
        let answer: (frame: Frame, byteCount: Int)
        do {
            guard let whole = try decodeFrame(UnsafeRawBufferPointer(end.inbound.bytes).bytes) else { return }
            answer = whole
        } catch {
            return require(false, "the client cannot read its WELCOME: \(error.rule)")
        }
        end.inbound.removeFirst(answer.byteCount)
        switch answer.frame {
        case .welcome(let welcome): receiveWelcome(end, welcome)
        case .refuse(let refusal):
            require(refusal.attempt == end.attempt, "REFUSE of another attempt")
            switch refusal.code {
            case .sessionUnknown: loseClientSession()
            case .stale: removeCandidate(end, orderly: false)
            default: require(false, "REFUSE with an unexpected code")
            }
        default: require(false, "the server answers HELLO with another frame")
        }
    }

    private func receiveWelcome(_ end: End, _ welcome: Welcome) {
        let session = client.session
        require(welcome.attempt == end.attempt, "WELCOME of another attempt")
        if session.identity == .none {
            session.identity = welcome.identity
            session.secret = welcome.secret
        } else {
            require(welcome.identity == session.identity && welcome.proof == Proof.of(welcome, secret: session.secret),
                    "WELCOME without proof")
        }
        let old = session.end
        do {
            try session.endpoint.resume(end.offer!, welcome, now: now(.client))
        } catch {
            return sessionFaulted(session, error)
        }
        resumes += 1
        end.state = .established
        end.session = session
        session.end = end
        if let old { close(old, orderly: false) }
        for loser in client.candidates where loser !== end { close(loser, orderly: false) }
        client.candidates = []
        receive(end, session)
        touch(session)
    }

    private func removeCandidate(_ end: End, orderly: Bool) {
        close(end, orderly: orderly)
        client.candidates.removeAll { $0 === end }
        if !client.candidates.contains(where: { $0.state == .handshaking }) {
            client.session.endpoint.withdrawOffers()
            touch(client.session)
        }
        considerDial()
    }

    func giveUp(_ end: End) {
        if client.candidates.contains(where: { $0 === end }) { removeCandidate(end, orderly: false) }
    }

    /// The client's socket says that the carrier is gone.
    func clientLost(_ end: End) {
        if end.state == .established {
            let session = end.session!
            close(end, orderly: false)
            session.end = nil
            session.endpoint.carrierLost()
            touch(session)
            considerDial()
        } else {
            removeCandidate(end, orderly: false)
        }
    }

    /// The server does not know the session any more, or this process was restarted.
    func loseClientSession() {
        let old = client.session
        for candidate in client.candidates { close(candidate, orderly: false) }
        client.candidates = []
        endSession(old)
        client.session = makeSession(.client)
        client.attempt = 0
        oldHellos.removeAll()
        considerDial()
    }
}
