import CSlab
import Time
import Tunnel
import Wire

/// The owner of one endpoint, as the proxy is: the store of retained bytes, the carrier, the sends under way.
final class Session {
    let number: Int
    let side: Side
    var endpoint: Endpoint
    /// The bytes from the oldest that may have to be replayed to `endpoint.sent`.
    var store = byte_queue()
    /// Its bytes that lie outside, oldest first.
    var kept: [UInt8] = []
    /// The current carrier.
    var end: End?
    /// Ends, also closed ones, whose send reads from the store.
    var sending: [End] = []

    var identity = SessionIdentity.none
    var secret = Octets32.zero
    /// Server: of the newest HELLO that was accepted.
    var attempt: UInt64 = 0

    /// Payload that arrived and that no user took.
    var held = 0
    /// The most streams that it had at a time.
    var streamPeak = 0
    var isOver = false
    /// Server: the registry knows that frames came.
    var isProven = false
    var isDirty = false
    /// When the timer in the calendar rings; others are stale.
    var timerAt = UInt64.max
    /// When it rang last.
    var rangAt = UInt64.max

    init(number: Int, side: Side, limits: Endpoint.Limits, now: Instant) {
        self.number = number
        self.side = side
        endpoint = Endpoint(role: side == .client ? .client : .server, limits: limits, now: now)
        queue_init(&store, 0)
    }
}

extension World {
    func makeSession(_ side: Side) -> Session {
        let session = Session(number: sessions.count, side: side, limits: plan.limits[side.rawValue], now: now(side))
        sessions.append(session)
        return session
    }

    /// After anything that happened to a session, once per event.
    func touch(_ session: Session) {
        guard !session.isDirty else { return }
        session.isDirty = true
        dirty.append(session)
    }

    func pumpDirty() {
        var index = 0
        while index < dirty.count {
            let session = dirty[index]
            session.isDirty = false
            if !session.isOver { pump(session) }
            index += 1
        }
        dirty.removeAll(keepingCapacity: true)
    }

    private func pump(_ session: Session) {
        sequenceFrames(session)
        if let end = session.end, end.send == nil, session.endpoint.isAttached { sendBatch(session, end) }
        releaseStore(session)
        armTimer(session)
        check(session)
    }

    private func sequenceFrames(_ session: Session) {
        let arena = arenas[session.side.rawValue]
        while session.endpoint.unsentByteCount < plan.unsentTarget {
            guard let frame = session.endpoint.nextFrame(into: header, payloadMaximum: plan.payloadMaximum, now: now(session.side)) else { break }
            sequenced.insert(header[0])
            require(queue_append_copy(&session.store, arena, header.baseAddress, frame.headerByteCount) == 0, "no memory")
            if frame.payloadByteCount > 0 {
                let user = userIndex(frame.owner, session.side)
                require(queue_count(&users[user].waiting) >= frame.payloadByteCount, "a frame of bytes that nobody wrote")
                guard failure == nil else { return }
                require(queue_move(&session.store, &users[user].waiting, arena, frame.payloadByteCount, plan.copyBelow) == 0,
                        "no memory")
                wakeWriter(user)
            }
            if frame.isOver { userIsOver(userIndex(frame.owner, session.side)) }
        }
    }

    private func sendBatch(_ session: Session, _ end: End) {
        let now = now(session.side)
        guard session.endpoint.wantsBatch(now: now) else { return }
        let limit = 1 + chance.skewed(plan.batchLimit)
        let batch = session.endpoint.nextBatch(limit: limit, control: end.control, now: now)
        guard !batch.isEmpty else { return }
        submit(end, Send(batch, of: session))
    }

    /// Bytes go home when they are acknowledged, the cursor is past them and no send reads them any more.
    func releaseStore(_ session: Session) {
        var bound = min(session.endpoint.acknowledged, session.endpoint.cursor)
        #if CANARIES
        if Canary.selected == .earlyRelease { bound = session.endpoint.cursor }
        #endif
        for end in session.sending { if let send = end.send { bound = min(bound, send.start) } }
        if bound > session.store.head { queue_release(&session.store, arenas[session.side.rawValue], bound) }
        releaseKept(session)
    }

    private func armTimer(_ session: Session) {
        let due = session.endpoint.nextTimeout
        guard due != .never else { return }
        let offset = clockOffset[session.side.rawValue]
        let at = max(due.nanoseconds > offset ? due.nanoseconds - offset : 0, time)
        if at == time {
            require(session.rangAt != time, "a timer that is due and stays due would spin")
        }
        guard at < session.timerAt else { return }
        session.timerAt = at
        calendar.add(.timer, session.number, at: at)
    }

    func handleTimer(_ session: Session, _ at: UInt64) {
        guard at == session.timerAt || time > session.timerAt else { return }
        session.timerAt = .max
        session.rangAt = time
        guard !session.isOver else { return }
        switch session.endpoint.handleTimeout(now: now(session.side)) {
        case .unchanged: return touch(session)
        case .inDoubt: doubts += 1
        case .suspected:
            suspicions += 1
            bringIn(session)
        }
        if session.side == .client {
            client.dialer.handleSuspected(now: now(.client))
            runDialer()
        }
        touch(session)
    }

    // MARK: What arrives

    /// Reads what stands at the end of an established carrier.
    func receive(_ end: End, _ session: Session) {
        let now = now(session.side)
        var offset = 0
        let bytes = UnsafeRawBufferPointer(end.inbound.bytes)
        reading: while failure == nil, !session.isOver {
            offset += pass(session, UnsafeRawBufferPointer(rebasing: bytes[offset...]))
            let received: Received
            do {
                received = try session.endpoint.receive(bytes.bytes, at: &offset, now: now)
            } catch {
                return sessionFaulted(session, error)
            }
            switch received {
            case .incomplete: break reading
            case .opened(let slot, let target): userIsOpened(session, slot, target)
            case .payload(let owner, let range): userReceived(session, owner, UnsafeRawBufferPointer(rebasing: bytes[range]))
            case .finished(let owner): userReceivedFin(session, owner)
            case .reset(let owner, let code): userWasReset(session, owner, code)
            case .closed(let code, _):
                require(plan.closes && code == .done || plan.liar != nil, "a session was closed that nobody closed")
                return session.side == .client ? loseClientSession() : endSession(session)
            }
        }
        session.endpoint.heard(now: now)
        if offset > 0 { noteProven(session) }
        if session === client.session, client.dialer.isSeeking, !session.endpoint.isInDoubt {
            client.home.handleRecovered()
            client.dialer.handleRecovered()
            runDialer()
        }
        end.inbound.removeFirst(offset)
        require(end.inbound.count <= Specification.controlFrameMaximum, "the reader keeps more than one frame")
        touch(session)
    }

    /// Frees everything; users that are left see a reset.
    func endSession(_ session: Session, orderly: Bool = false) {
        guard !session.isOver else { return }
        session.isOver = true
        if session.side == .server { server.registry.forget(UInt32(session.number)) }
        loseUsers(session)
        if let end = session.end { close(end, orderly: orderly) }
        session.end = nil
        clearStore(session)
    }

    /// The store's memory waits for the sends that read it.
    func clearStore(_ session: Session) {
        guard session.sending.isEmpty else { return }
        queue_clear(&session.store, arenas[session.side.rawValue])
        session.kept = []
    }
}
