import Time
import Wire

/// Payload that never lies in the owner's memory: it goes from a socket through a pipe into the carrier, or from the carrier
/// into a socket, and the endpoint counts it as if it had. The frames are those of `nextFrame`; whose turn it is the owner
/// decides: a spliced frame is one send, with nothing in front of it.
extension Endpoint {
    /// Some stream has bytes or control frames that are not sequenced yet.
    public var hasWaiting: Bool {
        scheduler.hasControl || scheduler.hasData || scheduler.firstOpening != StreamTable.none || !refusals.isEmpty
            || scheduler.firstResetting != StreamTable.none && resetsInFlight.count < ResetPace.inFlightMaximum && resetAt == .never
    }

    /// Most payload that anybody may send now past memory, in one frame. 0: what has its place must leave first, or nothing may go.
    public var spliceRoom: Int {
        guard isEstablished, isAttached, !isBatchOut, !liveness.isSuspected, owedClose == nil, sent == cursor,
            controlBytes.range.isEmpty, spreading != .owed
        else { return 0 }
        return max(
            0,
            min(
                limits.retained - retainedByteCount, Int(peerDataLimit - dataSent),
                Specification.dataBodyMaximum - Varint.maximumByteCount))
    }

    /// Most of it that is the stream's. 0: its credit is used up, or bytes of it wait in memory.
    public func spliceRoom(_ slot: StreamSlot) -> Int {
        guard table[slot].send.isOpen, table[slot].send.waiting == 0 else { return 0 }
        return min(spliceRoom, table[slot].send.credit)
    }

    /// `count` bytes of the stream (1…`spliceRoom`) take their place: the owner appends the header to its store and keeps the
    /// bytes behind it. The batch is what to hand over now: control frames, header, payload. `batchSent` follows.
    public mutating func splice(
        _ slot: StreamSlot, _ count: Int, header: UnsafeMutableRawBufferPointer,
        control: UnsafeMutableRawBufferPointer, now: Instant
    ) -> (frame: SequencedFrame, batch: Batch) {
        precondition(count > 0 && count <= spliceRoom(slot), "spliced more than may be sent")
        if owesControl(now) || acknowledgedToPeer < received {
            controlBytes.range = 0..<encodeControl(control, now)
            controlBytes.offset = cursor
        }
        var writer = ByteWriter(header)
        writer.appendDataHeader(stream: table[slot].id, payloadByteCount: count)
        changeSend(slot) {
            $0.write(count)
            $0.take(count)
        }
        dataSent += UInt64(count)
        dataFramed += UInt64(writer.count + count)
        let frame = sequence(writer.count, owner: table[slot].owner, payload: count, isOver: false)
        let batch = Batch(start: cursor, rest: 0, control: controlBytes.range, more: Int(sent - cursor))
        handed = sent
        liveness.sent(now: now)
        isBatchOut = true
        return (frame, batch)
    }

    /// Fresh payload with which the carrier goes on, and whose user wants it. Nil: something else comes, or a repetition.
    public var payloadDue: (owner: StreamOwner, byteCount: Int)? {
        guard reception.skip == 0, reception.position == received, reception.reading.payloadRemaining > 0,
            delivered.stream == reception.reading.stream, delivered.payloadRemaining == reception.reading.payloadRemaining,
            let slot = table.find(delivered.stream), table[slot].owner != .max
        else { return nil }
        return (table[slot].owner, delivered.payloadRemaining)
    }

    /// The owner spliced the first `count` bytes of `payloadDue` out of the carrier. `heard` follows.
    public mutating func passed(_ count: Int, now: Instant) {
        precondition(count > 0 && count <= payloadDue?.byteCount ?? 0, "passed payload that is not due")
        arrivedByteCount += count
        reception.position += UInt64(count)
        reception.reading.payloadRemaining -= count
        received = reception.position
        delivered.payloadRemaining -= count
        acknowledgeSoon(now)
    }
}
