import Control
import CSlab
import Time
import Tunnel
import Wire

/// The tele client: one session, one current carrier, and the shipping dialer with its candidates.
final class Client {
    var session: Session
    var dialer: Dialer
    var candidates: [Dialer.CandidateID: End] = [:]
    /// Who may say that the session is gone; addresses are their numbers.
    var home = SessionHome<Int>()
    private let addresses: [Int]
    /// When the dialer's event in the calendar rings; others are stale.
    var timerAt = UInt64.max
    /// Dials fail or hang until then.
    var refusedUntil: UInt64 = 0

    init(session: Session, addressCount: Int, now: Instant) {
        self.session = session
        dialer = Dialer(now: now)
        dialer.handleAddresses(addressCount, now: now)
        addresses = Array(0..<addressCount)
    }

    /// The shipping rule: a server at this address does not know the session.
    func judgeUnknown(from address: Int, now: Instant) -> SessionHome<Int>.Verdict {
        let has: SessionHome<Int>.Carrier = session.end == nil ? .none : session.endpoint.isSuspected ? .suspected : .works
        return home.handleUnknown(from: address, carrier: has, addresses: addresses, isUnused: isUnused, now: now)
    }

    private var isUnused: Bool {
        var unopened = 0
        session.endpoint.forEachUnopened { _, _ in unopened += 1 }
        return unopened == session.endpoint.streamCount
    }
}

extension World {
    /// Does what the dialer says, and notes when it wants to be asked again. After each event of the client.
    func runDialer() {
        while failure == nil, let action = client.dialer.nextAction() { act(action) }
        client.dialer.checkInvariants()
        let due = client.dialer.nextTimeout
        guard due != .never, failure == nil else { return }
        let offset = clockOffset[Side.client.rawValue]
        let at = max(due.nanoseconds > offset ? due.nanoseconds - offset : 0, time)
        guard at < client.timerAt else { return }
        client.timerAt = at
        calendar.add(.dial, 0, at: at)
    }

    func handleDialTimer(_ at: UInt64) {
        guard at == client.timerAt || time > client.timerAt else { return }
        client.timerAt = .max
        client.dialer.handleTimeout(now: now(.client), using: &chance)
        runDialer()
    }

    private func act(_ action: Dialer.Action) {
        switch action {
        case .connect(let id, let address): connect(id, address)
        case .secure: require(false, "a plain carrier was to be secured")
        case .greet(let id, let attempt): greet(client.candidates[id]!, attempt)
        case .abandon(let id, _):
            close(client.candidates[id]!, orderly: false)
            client.candidates[id] = nil
        case .keep(let id): client.session.endpoint.keep(client.candidates[id]!.offer!)
        case .withdrawOffers:
            client.session.endpoint.withdrawOffers()
            touch(client.session)
        }
    }

    private func connect(_ id: Dialer.CandidateID, _ address: Int) {
        let end = makeCarrier()
        end.candidate = id
        end.address = address
        ends[end.peer].address = address
        client.candidates[id] = end
        if time < client.refusedUntil || plan.deadAddresses.contains(address) {
            if chance.oneIn(2) { calendar.add(.down, end.number, at: time + latency()) }
        } else {
            if plan.swallowingAddresses.contains(address) { kill(end.number, style: 3) }
            calendar.add(.connected, end.number, at: time + 2 * latency())
        }
    }

    /// The chaos asks for a candidate, although the current carrier seems well.
    func doubtCarrier() {
        client.dialer.handleSuspected(now: now(.client))
        runDialer()
    }

    func connected(_ end: End) {
        guard end.state == .connecting else { return }
        let serverEnd = ends[end.peer]
        serverEnd.state = .handshaking
        end.state = .handshaking
        outages += 1
        if client.session.endpoint.probeAnswered() {
            suspicions += 1
            bringIn(client.session)
        }
        client.dialer.handleConnected(end.candidate, now: now(.client))
        runDialer()
    }

    private func greet(_ end: End, _ attempt: UInt64) {
        let session = client.session
        end.attempt = attempt
        bringIn(session)
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
            case .sessionUnknown: isUnknown(end)
            case .stale: candidateFailed(end)
            default: require(false, "REFUSE with an unexpected code")
            }
        default: require(false, "the server answers HELLO with another frame")
        }
    }

    private func isUnknown(_ end: End) {
        let session = client.session
        let isThere = server.sessions.contains { $0.identity == session.identity && !$0.isOver }
        let hadUsers = session.endpoint.streamCount > 0
        switch client.judgeUnknown(from: end.address, now: now(.client)) {
        case .gone:
            var unopened = 0
            session.endpoint.forEachUnopened { _, _ in unopened += 1 }
            require(!isThere || !hadUsers || unopened == session.endpoint.streamCount, "a stranger's word ended a session")
            return loseClientSession()
        case .stranger:
            close(end, orderly: false)
            client.candidates[end.candidate] = nil
            client.dialer.handleForeign(end.candidate, now: now(.client))
        case .notYet:
            close(end, orderly: false)
            client.candidates[end.candidate] = nil
            client.dialer.handleFailed(end.candidate, now: now(.client))
        }
        if session.end != nil, !session.endpoint.isSuspected { client.dialer.handleRecovered() }
        runDialer()
    }

    private func receiveWelcome(_ end: End, _ welcome: Welcome) {
        let session = client.session
        require(client.dialer.isAnswer(end.candidate, attempt: welcome.attempt), "WELCOME of another attempt")
        if session.identity == .none {
            session.identity = welcome.identity
            session.secret = welcome.secret
        } else if welcome.identity != session.identity {
            // Two HELLOs for a new session were under way, and each got one: the first counts.
            require(welcome.epoch == 1 && welcome.secret != .zero, "WELCOME to another session")
            return candidateFailed(end)
        } else {
            require(welcome.proof == Proof.of(welcome, secret: session.secret), "WELCOME without proof")
        }
        let old = session.end
        do {
            bringIn(session)
            try session.endpoint.resume(end.offer!, welcome, now: now(.client))
        } catch {
            return sessionFaulted(session, error)
        }
        resumes += 1
        end.state = .established
        end.session = session
        session.end = end
        if end.send == nil { session.endpoint.greetingSent() }
        if let old { close(old, orderly: false) }
        client.candidates[end.candidate] = nil
        client.home.handleCarried(by: end.address)
        client.dialer.handleWon(end.candidate)
        runDialer()
        if plan.measuresPath { session.endpoint.pathMeasured(Interval(nanoseconds: 2 * plan.latency)) }
        receive(end, session)
        touch(session)
    }

    private func candidateFailed(_ end: End) {
        close(end, orderly: false)
        client.candidates[end.candidate] = nil
        client.dialer.handleFailed(end.candidate, now: now(.client))
        runDialer()
    }

    /// The client's socket says that the carrier is gone.
    func clientLost(_ end: End) {
        if end.state == .established {
            let session = end.session!
            close(end, orderly: false)
            session.end = nil
            bringIn(session)
            session.endpoint.carrierLost()
            touch(session)
            client.home.handleCarrierLost()
            client.dialer.handleCarrierLost(now: now(.client))
            runDialer()
        } else if client.candidates[end.candidate] === end {
            candidateFailed(end)
        }
    }

    /// The server does not know the session any more, or (`carries` nothing) this process was restarted. Streams that no
    /// carrier ever heard of go on in the new session.
    func loseClientSession(carries: Bool = true) {
        let old = client.session
        client.session = makeSession(.client)
        client.home = SessionHome()
        client.dialer.handleSessionReplaced(now: now(.client))
        runDialer()
        if carries { carryOver(from: old, to: client.session) }
        endSession(old)
        oldHellos.removeAll()
        touch(client.session)
    }

    private func carryOver(from old: Session, to new: Session) {
        for user in users.indices where user & 1 == Side.client.rawValue && users[user].state == .open
            && users[user].session == old.number && old.endpoint.isUnopened(users[user].slot) && new.endpoint.canOpen {
            require(users[user].arrived == 0 && queue_count(&users[user].waiting) == users[user].written,
                    "a stream that nobody heard of has sent or received")
            let stream = stream(ofUser: user)
            let slot = new.endpoint.open(owner: StreamOwner(stream), target: UInt64(stream), now: now(.client))
            users[user].session = new.number
            users[user].slot = slot
            if users[user].written > 0 { new.endpoint.write(slot, users[user].written) }
            if users[user].isFinished { new.endpoint.finish(slot) }
            carried += 1
        }
    }
}
