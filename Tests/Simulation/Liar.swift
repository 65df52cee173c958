import Chance
import Tunnel
import Wire

/// Changes what one side of a carrier sends, as a peer would that wants to do harm. Without a key its lies are well-formed frames, too: what
/// breaks a rule ends its own session at most (protocol 6.1, 6.12, 7.3, 10.2, 12.5, 12.6). With a key a change costs a carrier (protocol 12.1).
struct Liar {
    /// It leaves the first bytes of a carrier as they are.
    private let sparedByteCount: Int
    /// One arrival in this many is changed.
    private let changesOneIn: Int
    private let streams: UInt64

    init(_ plan: Plan, _ chance: inout Chance) {
        sparedByteCount = chance.pick([0, 200, 600])
        changesOneIn = chance.pick([2, 8, 40])
        streams = UInt64(plan.streams) * 2
    }

    /// `sent`: bytes of this carrier that have arrived, with these.
    func lie(_ pieces: [ArraySlice<UInt8>], sent: Int, _ chance: inout Chance) -> [ArraySlice<UInt8>] {
        guard sent > sparedByteCount, chance.oneIn(changesOneIn) else { return pieces }
        var bytes = Array(pieces.joined())
        switch chance.below(4) {
        case 0:  // One bit.
            bytes[chance.below(bytes.count)] ^= 1 << UInt8(chance.below(8))
        case 1:  // A run of garbage.
            let first = chance.below(bytes.count)
            for index in first..<min(bytes.count, first + 1 + chance.skewed(64)) { bytes[index] = UInt8(truncatingIfNeeded: chance.next()) }
        case 2:  // A part once more.
            let first = chance.below(bytes.count)
            bytes += bytes[first..<min(bytes.count, first + 1 + chance.skewed(256))]
        default:  // A frame that nobody asked for.
            withUnsafeTemporaryAllocation(byteCount: 256, alignment: 8) { buffer in
                var writer = ByteWriter(buffer)
                writer.appendLie(&chance, streams: streams, offsets: UInt64(sent))
                bytes += buffer[0..<writer.count]
            }
        }
        return [bytes[...]]
    }
}

extension ByteWriter {
    /// A well-formed frame of any type with values that might be believed.
    mutating func appendLie(_ chance: inout Chance, streams: UInt64, offsets: UInt64) {
        let stream = UInt64(chance.skewed(Int(streams) + 2))
        let value = chance.value(near: offsets)
        switch chance.below(10) {
        case 0:
            appendOpen(
                stream: stream, target: value, sendCredit: chance.value(near: 4096),
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
