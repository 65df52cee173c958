import Time
import Tunnel
import Wire

/// A peer that lies: what it sends on an agreed link is changed on the way. The other must notice or go on; neither
/// may trap, and the bounds hold.
extension World {
    /// Changes some of the bytes behind the first `count` of a way.
    func lie(_ end: End, behind count: Int) {
        guard chance.oneIn(4) else { return }
        let bytes = UnsafeMutableRawBufferPointer(rebasing: end.way.bytes.bytes[count...])
        guard !bytes.isEmpty else { return }
        switch chance.below(4) {
        case 0:  // One bit.
            bytes[chance.below(bytes.count)] ^= 1 << UInt8(chance.below(8))
        case 1:  // A run of garbage.
            let first = chance.below(bytes.count)
            for index in first..<min(bytes.count, first + 1 + chance.skewed(64)) {
                bytes[index] = UInt8(truncatingIfNeeded: chance.next())
            }
        case 2:  // A part once more.
            let first = chance.below(bytes.count)
            let part = [UInt8](bytes[first..<min(bytes.count, first + 1 + chance.skewed(256))])
            part.withUnsafeBytes { end.way.bytes.append($0) }
        default:  // A frame that nobody asked for.
            withUnsafeTemporaryAllocation(byteCount: 256, alignment: 8) { buffer in
                var writer = ByteWriter(buffer)
                writer.appendLie(&chance, streams: UInt64(plan.streamCount) * 2, offsets: end.session?.endpoint.sent ?? 0)
                end.way.bytes.append(UnsafeRawBufferPointer(rebasing: buffer[0..<writer.count]))
            }
        }
    }

    func liarOpened(_ session: Session, _ slot: StreamSlot, _ target: UInt64) {
        if target < UInt64(plan.streamCount), opener(of: Int(target)) != session.side,
           users[userIndex(StreamOwner(target), session.side)].state == .absent {
            let user = userIndex(StreamOwner(target), session.side)
            session.endpoint.adopt(slot, owner: StreamOwner(target))
            begin(user, session, slot)
        } else {
            session.endpoint.reset(slot, .refused, now: now(session.side))
        }
    }

    /// Until one is caught, or nothing has come of it.
    func runWithLiar() {
        while failure == nil, caught == nil, steps < 60_000, !isHealed || time < healedAt + milliseconds(5_000), step() {}
        putAway()
    }
}

extension ByteWriter {
    /// A well-formed frame of any type with values that might be believed.
    mutating func appendLie(_ chance: inout Chance, streams: UInt64, offsets: UInt64) {
        let stream = UInt64(chance.skewed(Int(streams) + 2))
        let value = chance.value(near: offsets)
        switch chance.below(10) {
        case 0: appendOpen(stream: stream, target: value, sendCredit: chance.value(near: 4096),
                           receiveCredit: chance.value(near: 4096))
        case 1: appendDataHeader(stream: stream, payloadByteCount: 1 + chance.skewed(1 << 20))
        case 2: appendFin(stream: stream, finalSize: value)
        case 3: appendReset(stream: stream, code: ResetCode(rawValue: value))
        case 4: appendStreamCredit(stream: stream, limit: value)
        case 5: appendAcknowledgment(offset: value, dataLimit: chance.value(near: offsets))
        case 6: appendPing(token: value)
        case 7: appendPong(token: UInt64(chance.skewed(64)))
        case 8: appendClose(code: CloseCode(rawValue: value), reason: "a lie")
        default:  // Unknown: optional or mandatory, sequenced or not.
            append(UInt8(truncatingIfNeeded: chance.next()) | 0x20)
            append(varint: 1)
            append(UInt8(truncatingIfNeeded: chance.next()))
        }
    }
}

extension Chance {
    /// Near `middle`, near zero, or at the upper end of what can be written.
    mutating func value(near middle: UInt64) -> UInt64 {
        let distance = UInt64(skewed(1 << 20))
        switch below(4) {
        case 0: return min(middle &+ distance, Varint.maximum)
        case 1: return middle > distance ? min(middle - distance, Varint.maximum) : 0
        case 2: return distance
        default: return Varint.maximum - distance
        }
    }
}
