import Time
import Wire

/// A frame that has just taken its place in the sequence. The owner must append the header, then `payload` bytes of
/// the stream, to its store of retained bytes before anything else.
public struct SequencedFrame {
    public let owner: StreamOwner
    public let headerByteCount: Int
    public let payloadByteCount: Int
    /// The stream is over: both ends are told, the slot is gone, the owner may close its socket.
    public let isOver: Bool
}

/// What to hand to the carrier in one send: `rest` retained bytes from `start`, then the control bytes, then `more`
/// retained bytes. Control bytes only ever stand at a frame border.
public struct Batch {
    public let start: UInt64
    public let rest: Int
    /// Which of the control buffer's bytes.
    public let control: Range<Int>
    public let more: Int

    public var byteCount: Int { rest + control.count + more }
    public var isEmpty: Bool { byteCount == 0 }
}

/// Unsequenced frames that were encoded for the current carrier and are not all handed over.
struct ControlBytes {
    var range = 0..<0
    /// The border they stand at.
    var offset: UInt64 = 0
}

extension Endpoint {
    /// Bytes that the control buffer of a carrier must hold.
    public static let controlBufferByteCount = 512
    /// Longest header of a sequenced frame.
    public static let headerMaximum = 48

    /// About how many bytes of one stream go before another's; within the scheduler's bounds.
    public mutating func setQuantum(_ byteCount: Int) { scheduler.setQuantum(byteCount) }

    public var unsentByteCount: Int { Int(sent - cursor) }
    public var retainedByteCount: Int { Int(sent - acknowledged) }

    /// Bytes of frames other than DATA that are not acknowledged; about, because borders are remembered at some distance.
    private var retainedControlByteCount: Int { retainedByteCount - min(retainedByteCount, Int(dataFramed - borders.dataRemoved)) }

    /// Sequences the next frame and writes its header. Nil: no stream has anything that may be sent now.
    /// `payloadMaximum` ≥ 1 bounds the payload.
    public mutating func nextFrame(into header: UnsafeMutableRawBufferPointer, payloadMaximum: Int, now: Instant) -> SequencedFrame? {
        guard isEstablished, owedClose == nil else { return nil }
        var writer = ByteWriter(header)
        if retainedControlByteCount < Endpoint.controlReserve {
            if scheduler.hasControl { return nextControlFrame(&writer) }
            if !refusals.isEmpty { return refusalFrame(&writer) }
            if mayReset(now) { return resetFrame(scheduler.firstResetting, &writer) }
            if opensStreams, scheduler.firstOpening != StreamTable.none { return openFrame(&writer) }
        }
        while scheduler.hasData {
            let slot = scheduler.nextData(&table)
            guard table[slot].send.sendable > 0 else {
                if table[slot].send.waiting > 0 {
                    scheduler.blocked(slot, &table)
                } else {
                    scheduler.ranDry(slot, &table)
                }
                continue
            }
            return dataFrame(slot, &writer, payloadMaximum)
        }
        return nil
    }

    private mutating func nextControlFrame(_ writer: inout ByteWriter) -> SequencedFrame? {
        let slot = scheduler.firstControl
        if table[slot].pending.contains(.reset) { return resetFrame(slot, &writer) }
        if table[slot].pending.contains(.credit) {
            writer.appendStreamCredit(stream: table[slot].id, limit: table[slot].receive.tellCredit())
            table[slot].pending.remove(.credit)
            if table[slot].pending.isEmpty { scheduler.removeControl(slot, &table) }
            return sequence(writer.count, owner: table[slot].owner, payload: 0, isOver: false)
        }
        precondition(table[slot].pending == .fin, "a stream owes a control frame that has no name")
        return finFrame(slot, &writer)
    }

    private mutating func resetFrame(_ slot: StreamSlot, _ writer: inout ByteWriter) -> SequencedFrame {
        let isPaced = isOwn(table[slot].id)
        writer.appendReset(stream: table[slot].id, code: ResetCode(rawValue: table[slot].resetCode))
        remove(slot)
        let frame = sequence(writer.count, owner: .max, payload: 0, isOver: false)
        if isPaced { resetsInFlight.append(sent, data: 0) }
        return frame
    }

    private mutating func refusalFrame(_ writer: inout ByteWriter) -> SequencedFrame {
        let refusal = refusals.removeFirst()
        writer.appendReset(stream: refusal.id, code: ResetCode(rawValue: refusal.code))
        return sequence(writer.count, owner: .max, payload: 0, isOver: false)
    }

    /// A stream of ours waits to be reset, and its time has come.
    private mutating func mayReset(_ now: Instant) -> Bool {
        resetAt = .never
        #if CANARIES
        if Canary.selected == .unpacedResets { return scheduler.firstResetting != StreamTable.none }
        #endif
        guard scheduler.firstResetting != StreamTable.none, resetsInFlight.count < ResetPace.inFlightMaximum else { return false }
        if resetBucket.take(now: now) { return true }
        resetAt = resetBucket.nextAt(now: now)
        return false
    }

    /// OPEN waits for a carrier that nobody doubts: a stream that the peer cannot have heard of may still move to
    /// another session (`isUnopened`).
    private var opensStreams: Bool { isAttached && !liveness.isSuspected }

    private mutating func openFrame(_ writer: inout ByteWriter) -> SequencedFrame {
        let slot = scheduler.firstOpening
        let left = peerDataLimit - dataSent
        let credit = min(initialCredit(of: left - min(left, peerPromised)), peerInitialCredit)
        writer.appendOpen(
            stream: table[slot].id, target: table[slot].target, sendCredit: credit,
            receiveCredit: table[slot].receive.tellCredit())
        changeSend(slot) { $0.raise(limit: credit) }
        table[slot].pending.remove(.open)
        scheduler.removeControl(slot, &table)
        if table[slot].send.hasWork { scheduler.ready(slot, &table) }
        finIfOwed(slot)
        return sequence(writer.count, owner: table[slot].owner, payload: 0, isOver: false)
    }

    private mutating func finFrame(_ slot: StreamSlot, _ writer: inout ByteWriter) -> SequencedFrame {
        writer.appendFin(stream: table[slot].id, finalSize: table[slot].send.sequenced)
        changeSend(slot) { $0.finSequenced() }
        table[slot].pending.remove(.fin)
        scheduler.removeControl(slot, &table)
        let owner = table[slot].owner
        return sequence(writer.count, owner: owner, payload: 0, isOver: removeIfOver(slot))
    }

    private mutating func dataFrame(_ slot: StreamSlot, _ writer: inout ByteWriter, _ maximum: Int) -> SequencedFrame? {
        let isAlone = scheduler.isAlone(slot)
        let turn = isAlone ? Int.max : Int(table[slot].deficit)
        let room = max(0, limits.retained - retainedByteCount)
        let count = min(
            table[slot].send.sendable, turn, maximum, room, Int(peerDataLimit - dataSent),
            Specification.dataBodyMaximum - Varint.maximumByteCount)
        guard count > 0 else { return nil }
        writer.appendDataHeader(stream: table[slot].id, payloadByteCount: count)
        changeSend(slot) { $0.take(count) }
        // Bytes sent while no stream waited cost no stream anything, and are not a debt.
        table[slot].deficit = isAlone ? 0 : table[slot].deficit - Int32(count)
        dataSent += UInt64(count)
        dataFramed += UInt64(writer.count + count)
        finIfOwed(slot)
        return sequence(writer.count, owner: table[slot].owner, payload: count, isOver: false)
    }

    mutating func sequence(_ header: Int, owner: StreamOwner, payload: Int, isOver: Bool) -> SequencedFrame {
        sent += UInt64(header + payload)
        if sent - (borders.last ?? acknowledged) >= Endpoint.borderDistance { borders.append(sent, data: dataFramed) }
        return SequencedFrame(owner: owner, headerByteCount: header, payloadByteCount: payload, isOver: isOver)
    }

    // MARK: Batches

    /// The owner's greeting, with what follows it, has left: batches may follow.
    public mutating func greetingSent() { isBatchOut = false }

    /// The carrier has subflows: the next batch ends with SUBFLOWS, and what follows goes in chunks.
    public mutating func spread() { if isAttached, spreading == .no { spreading = .owed } }

    /// SUBFLOWS has been handed over: nothing more goes over the carrier's own connection.
    public var isSpread: Bool { spreading == .done }

    /// Something is to be handed over, now. Mutating as `nextTimeout` is.
    public mutating func wantsBatch(now: Instant) -> Bool {
        isAttached && !isBatchOut && (sent > cursor || !controlBytes.range.isEmpty || owesControl(now))
    }

    func owesControl(_ now: Instant) -> Bool {
        acknowledgmentDue <= now || owedPong != nil || (owedClose != nil && !closeIsEncoded) || spreading == .owed || liveness.owesPing(now: now)
    }

    /// The next send, of about `limit` bytes. The previous one must have been reported by `batchSent`.
    /// `control` belongs to the carrier and keeps its contents until then.
    public mutating func nextBatch(limit: Int, control: UnsafeMutableRawBufferPointer, now: Instant) -> Batch {
        precondition(isAttached, "a batch without a carrier")
        if controlBytes.range.isEmpty, owesControl(now) || (sent > cursor && acknowledgedToPeer < received) {
            controlBytes.range = 0..<encodeControl(control, now)
            controlBytes.offset = sent == cursor ? sent : borders.first(from: cursor) ?? sent
            #if CANARIES
            if Canary.selected == .controlInsideFrame { controlBytes.offset = cursor }
            #endif
        }
        let batch: Batch
        if controlBytes.range.isEmpty {
            batch = Batch(start: cursor, rest: 0, control: 0..<0, more: min(limit, Int(sent - cursor)))
        } else {
            let rest = Int(controlBytes.offset - cursor)
            let more = spreading == .encoded ? 0 : min(max(0, limit - rest), Int(sent - controlBytes.offset))
            batch = Batch(start: cursor, rest: rest, control: controlBytes.range, more: more)
        }
        handed = max(handed, cursor + UInt64(batch.rest + batch.more))
        if batch.rest + batch.more > 0 { liveness.sent(now: now) }
        isBatchOut = !batch.isEmpty
        return batch
    }

    /// Nothing waits for `batch` to leave.
    public func isLast(_ batch: Batch) -> Bool {
        batch.start + UInt64(batch.rest + batch.more) == sent && !hasWaiting && isEstablished && spreading != .encoded && owedClose == nil
    }

    /// The carrier took the first `count` bytes of `batch`.
    public mutating func batchSent(_ batch: Batch, _ count: Int) {
        precondition(count <= batch.byteCount && cursor == batch.start, "a send reported more than it was given")
        isBatchOut = false
        let rest = min(count, batch.rest)
        let control = min(count - rest, batch.control.count)
        controlBytes.range = (controlBytes.range.lowerBound + control)..<controlBytes.range.upperBound
        cursor += UInt64(count - control)
        if spreading == .encoded, controlBytes.range.isEmpty { spreading = .done }
    }

    mutating func encodeControl(_ buffer: UnsafeMutableRawBufferPointer, _ now: Instant) -> Int {
        var writer = ByteWriter(buffer)
        acknowledgedToPeer = min(received, acknowledgmentCeiling)
        toldDataLimit = announceDataLimit()
        #if CANARIES
        let early = Canary.selected == .earlyAcknowledgment ? UInt64(delivered.payloadRemaining) : 0
        writer.appendAcknowledgment(offset: acknowledgedToPeer + early, dataLimit: toldDataLimit)
        #else
        writer.appendAcknowledgment(offset: acknowledgedToPeer, dataLimit: toldDataLimit)
        #endif
        acknowledgmentDue = .never
        if let token = owedPong {
            writer.appendPong(token: token)
            owedPong = nil
        }
        if liveness.owesPing(now: now) { writer.appendPing(token: liveness.nextPing(now: now)) }
        if let (code, reason) = owedClose, !closeIsEncoded {
            writer.appendClose(code: code, reason: reason.description)
            closeIsEncoded = true
        }
        // Last: what stands behind it is read as chunks.
        if spreading == .owed {
            writer.appendSubflows()
            spreading = .encoded
        }
        return writer.count
    }

    /// Everything owed has been handed over, CLOSE included.
    public var isClosed: Bool { closeIsEncoded && controlBytes.range.isEmpty }
}
