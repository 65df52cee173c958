import Time
import Wire

/// What the owner must know of the bytes that arrived.
public enum Received: Equatable {
    /// All that is whole has been read; the bytes from the offset on start a frame that is not.
    case incomplete
    /// The peer opened a stream; answer with `adopt` or `reset` before anything else.
    case opened(StreamSlot, target: UInt64)
    /// Payload for the owner's user: these bytes of what was given to `receive`.
    case payload(StreamOwner, Range<Int>)
    /// The peer's half has ended in order, behind all payload so far. `drain` follows when the user has it all.
    case finished(StreamOwner)
    /// The stream is gone, its slot too.
    case reset(StreamOwner, ResetCode)
    /// The peer ended the session.
    case closed(CloseCode, reason: String)
    /// What the peer sends goes on in chunks, over the carrier's subflows; nothing follows here.
    case spread
}

extension Endpoint {
    /// Reads on at `offset`, which moves past what was read. Call again until `.incomplete`, then `heard`.
    /// A fault ends the session: the peer cannot be believed any more.
    public mutating func receive(_ bytes: RawSpan, at offset: inout Int, now: Instant) throws(ProtocolFault) -> Received {
        let start = offset
        defer { arrivedByteCount += offset - start }
        while offset < bytes.byteCount {
            if reception.skip > 0 {
                let count = min(reception.skip, UInt64(bytes.byteCount - offset))
                reception.skip -= count
                reception.position += count
                offset += Int(count)
                continue
            }
            if reception.reading.payloadRemaining > 0 {
                if let event = try receivePayload(bytes.byteCount - offset, at: &offset, now) { return event }
                continue
            }
            guard let (frame, count) = try decodeFrame(bytes.extracting(offset..<bytes.byteCount)) else {
                return .incomplete
            }
            offset += count
            if let event = try receive(frame, count, now) { return event }
        }
        return .incomplete
    }

    /// After each arrival, when all of it has been read.
    public mutating func heard(now: Instant) {
        guard arrivedByteCount > 0 else { return }
        liveness.heard(arrivedByteCount, isActive: received > heardReceived, now: now)
        arrivedByteCount = 0
        heardReceived = received
    }

    private mutating func receive(_ frame: Frame, _ count: Int, _ now: Instant) throws(ProtocolFault) -> Received? {
        guard frame.isSequenced else { return try receiveUnsequenced(frame, now) }
        let end = reception.position + UInt64(count)
        reception.position = end
        let isRepeated = end <= received
        guard isRepeated || end - UInt64(count) == received && delivered.payloadRemaining == 0 else {
            throw ProtocolFault("a replay does not match what it replays")
        }
        if !isRepeated {
            received = end
            acknowledgeSoon(now)
        }
        if case .data(let stream, let payload) = frame {
            reception.reading = Reading(stream: stream, payloadRemaining: payload)
            if !isRepeated {
                delivered = reception.reading
                try acceptData(stream, UInt64(payload), now)
            }
            return nil
        }
        return isRepeated ? nil : try receiveSequenced(frame, now)
    }

    /// A DATA frame may hold no more than both limits allow, judged before its first byte is passed on.
    private mutating func acceptData(_ stream: UInt64, _ count: UInt64, _ now: Instant) throws(ProtocolFault) {
        guard count <= announcedDataLimit - dataReceived else { throw ProtocolFault("a session exceeds its credit") }
        dataReceived += count
        guard let slot = try find(stream) else {
            dataConsumed += count  // A stream that is gone: its bytes are nobody's.
            announceIfUseful(now)
            return
        }
        try changeReceive(slot) { (half: inout ReceiveHalf) throws(ProtocolFault) in try half.receive(count) }
        if table[slot].pending.contains(.reset) {
            dataConsumed += count
            announceIfUseful(now)
        }
    }

    private mutating func receivePayload(_ available: Int, at offset: inout Int, _ now: Instant) throws(ProtocolFault)
        -> Received?
    {
        let count = min(available, reception.reading.payloadRemaining)
        let end = reception.position + UInt64(count)
        let fresh = end > received ? Int(end - max(received, reception.position)) : 0
        let start = offset + count - fresh
        offset += count
        reception.position = end
        reception.reading.payloadRemaining -= count
        #if CANARIES
        if Canary.selected == .noDedupe, fresh == 0, let slot = table.find(reception.reading.stream) {
            return .payload(table[slot].owner, (offset - count)..<offset)
        }
        #endif
        guard fresh > 0 else { return nil }
        guard end - UInt64(fresh) == received, delivered.stream == reception.reading.stream,
            delivered.payloadRemaining == reception.reading.payloadRemaining + fresh
        else {
            throw ProtocolFault("a replay does not match what it replays")
        }
        received = end
        delivered.payloadRemaining -= fresh
        acknowledgeSoon(now)
        guard let slot = try find(delivered.stream), table[slot].owner != .max else { return nil }
        return .payload(table[slot].owner, start..<(start + fresh))
    }

    private mutating func receiveSequenced(_ frame: Frame, _ now: Instant) throws(ProtocolFault) -> Received? {
        switch frame {
        case .open(let id, let target, let sendCredit, let receiveCredit):
            return try receiveOpen(id, target, sendCredit, receiveCredit, now)
        case .fin(let id, let finalSize):
            guard let slot = try find(id), !table[slot].pending.contains(.reset) else { return nil }
            #if CANARIES
            if Canary.selected == .lostFin, epoch > 1 { return nil }
            #endif
            try changeReceive(slot) { (half: inout ReceiveHalf) throws(ProtocolFault) in try half.receiveFin(finalSize: finalSize) }
            return .finished(table[slot].owner)
        case .reset(let id, let code):
            guard let slot = try find(id) else { return nil }
            // A stream of ours ends once, and we opened it; one of the peer's cost us a connection.
            guard isOwn(id) || peerResets.take(now: now) else {
                throw ProtocolFault("more streams were reset than anybody needs")
            }
            let owner = table[slot].owner
            #if CANARIES
            if Canary.selected == .resetAsFin, owner != .max, table[slot].receive.isOpen {
                let size = table[slot].receive.received
                try changeReceive(slot) { (half: inout ReceiveHalf) throws(ProtocolFault) in try half.receiveFin(finalSize: size) }
                return .finished(owner)
            }
            #endif
            if !table[slot].pending.contains(.reset) { consumeAll(slot, now) }
            remove(slot)
            return owner == .max ? nil : .reset(owner, code)
        case .streamCredit(let id, let limit):
            guard let slot = try find(id) else { return nil }
            #if CANARIES
            if Canary.selected == .relativeCredit { changeSend(slot) { $0.raise(limit: limit + $0.limit) } }
            #endif
            changeSend(slot) { $0.raise(limit: limit) }
            if table[slot].send.hasWork { scheduler.ready(slot, &table) }
            return nil
        case .unknown:
            return nil
        case .data, .acknowledgment, .ping, .pong, .close, .welcome, .refuse, .subflows:
            preconditionFailure("not a sequenced control frame")
        }
    }

    private mutating func receiveOpen(
        _ id: UInt64, _ target: UInt64, _ sendCredit: UInt64, _ receiveCredit: UInt64,
        _ now: Instant
    ) throws(ProtocolFault) -> Received? {
        guard id & 1 == nextPeerID & 1, id >= nextPeerID else { throw ProtocolFault("a stream identifier is used twice") }
        guard sendCredit <= Specification.initialCreditMaximum else {
            throw ProtocolFault("a stream assumes more credit than agreed")
        }
        // The peer counts each of them until its RESET has come, and RESETs leave faster than connections can be made.
        guard refusals.count < min(limits.streams, Endpoint.refusalsMaximum) + Endpoint.streamSlack else { throw ProtocolFault("more streams than agreed") }
        nextPeerID = id + 2
        let isRefused = table.count >= limits.streams + overlap
        let slot = insert(
            Stream(
                id: id, owner: .max, send: SendHalf(limit: receiveCredit),
                receive: ReceiveHalf(initial: sendCredit, now: now)))
        if isRefused {
            reset(slot, .tooMany, now: now)
            return nil
        }
        return .opened(slot, target: target)
    }

    /// Streams beyond the limit that are served all the same: their opener has seen as many end that still end here.
    private var overlap: Int { min(limits.streams, Endpoint.streamSlack) }

    /// A peer may open streams beyond the limit, because it does not know the limit yet or because streams that it has
    /// ended live on here until their users have read all. Each is reset; so many of them beyond the limit are no fault.
    static let streamSlack = 1024

    /// Nil for a stream that is gone; a fault for one that never was.
    private mutating func find(_ id: UInt64) throws(ProtocolFault) -> StreamSlot? {
        if let slot = table.find(id) {
            guard !table[slot].pending.contains(.open) else { throw ProtocolFault("a frame for a stream that was never opened") }
            return slot
        }
        let bound = isOwn(id) ? nextOwnID : nextPeerID
        guard id < bound else { throw ProtocolFault("a frame for a stream that was never opened") }
        return nil
    }

    private mutating func receiveUnsequenced(_ frame: Frame, _ now: Instant) throws(ProtocolFault) -> Received? {
        switch frame {
        case .acknowledgment(let offset, let limit):
            try receiveAcknowledgment(offset, limit, now)
        case .ping(let token):
            owedPong = token
            liveness.heardPing(token, now: now)
        case .pong(let token):
            liveness.receivePong(token, isDue: handed > acknowledged, now: now)
        case .close(let code, let reason):
            return .closed(code, reason: reason)
        case .subflows:
            return .spread
        case .unknown:
            break
        case .welcome, .refuse:
            throw ProtocolFault("a handshake frame on an established link")
        case .open, .data, .fin, .reset, .streamCredit:
            preconditionFailure("a sequenced frame")
        }
        return nil
    }

    private mutating func receiveAcknowledgment(_ offset: UInt64, _ limit: UInt64, _ now: Instant) throws(ProtocolFault) {
        guard offset >= acknowledged else { throw ProtocolFault("an acknowledgment went back") }
        guard offset <= handed else { throw ProtocolFault("an acknowledgment of bytes that were never sent") }
        if offset > acknowledged {
            liveness.answered(isDue: handed > offset, isFresh: offset >= handedWhenSuspected, now: now)
        }
        acknowledged = offset
        peerDataLimit = max(peerDataLimit, limit)
        borders.removeThrough(min(acknowledged, cursor))
        resetsInFlight.removeThrough(acknowledged)
    }

    mutating func acknowledgeSoon(_ now: Instant) {
        if received - acknowledgedToPeer >= Endpoint.acknowledgmentThreshold {
            acknowledgmentDue = min(acknowledgmentDue, now)
        } else if acknowledgmentDue == .never {
            acknowledgmentDue = now + acknowledgmentDelay
        }
    }
}
