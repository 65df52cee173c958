import Chance
import Wire

/// A value of any size that a varint can have, often at a border.
func randomValue(_ chance: inout Chance) -> UInt64 {
    let borders: [UInt64] = [0, 1, 63, 64, 16_383, 16_384, 1_073_741_823, 1_073_741_824, Varint.maximum]
    if chance.oneIn(4) { return borders[chance.below(borders.count)] }
    return chance.next() >> UInt64(2 + chance.below(62))
}

/// Printable, of 0 to 256 bytes.
func randomReason(_ chance: inout Chance) -> String {
    let count = chance.oneIn(8) ? 256 : chance.below(30)
    return String(decoding: (0..<count).map { _ in UInt8(0x20 + chance.below(0x5f)) }, as: UTF8.self)
}

func randomMAC(_ chance: inout Chance) -> MAC {
    chance.oneIn(4) ? .zero : MAC(chance.next(), chance.next(), chance.next(), chance.next())
}

/// Any frame that has bytes.
func randomFrame(_ chance: inout Chance) -> Frame {
    func value() -> UInt64 { randomValue(&chance) }
    switch chance.below(12) {
    case 0: return .open(stream: value(), target: value(), sendCredit: value(), receiveCredit: value())
    case 1:
        let longest = Specification.dataBodyMaximum - Varint.maximumByteCount
        return .data(stream: value(), payloadByteCount: chance.oneIn(8) ? longest : 1 + chance.below(longest))
    case 2: return .fin(stream: value(), finalSize: value())
    case 3: return .reset(stream: value(), code: ResetCode(rawValue: value()))
    case 4: return .streamCredit(stream: value(), limit: value())
    case 5: return .acknowledgment(offset: value(), dataLimit: value())
    case 6: return .ping(token: value())
    case 7: return .pong(token: value())
    case 10: return .subflows
    case 8: return .close(code: CloseCode(rawValue: value()), reason: randomReason(&chance))
    case 9:
        let identity = SessionIdentity(high: chance.next(), low: chance.next())
        var welcome = Welcome(
            identity: identity, secret: randomSecret(&chance), attempt: chance.next(),
            epoch: UInt32(truncatingIfNeeded: chance.next()), received: value(), dataLimit: value(),
            maximumStreams: chance.next(), initialCredit: chance.next(), proof: randomMAC(&chance))
        welcome.version = UInt8(chance.below(256))
        if chance.oneIn(2) {
            welcome.server = ServerIdentity(run: chance.next(), place: chance.next())
            welcome.holdSeconds = UInt32(truncatingIfNeeded: chance.next())
            welcome.subflows = chance.oneIn(2) ? UInt8(chance.below(256)) : nil
        }
        return .welcome(welcome)
    default:
        return .refuse(
            Refusal(
                code: CloseCode(rawValue: value()), attempt: value(), reason: randomReason(&chance),
                server: chance.oneIn(2) ? ServerIdentity(run: chance.next(), place: chance.next()) : nil))
    }
}

func randomHello(_ chance: inout Chance) -> Hello {
    let identity = chance.oneIn(4) ? SessionIdentity.none : SessionIdentity(high: chance.next(), low: chance.next())
    var hello = Hello(
        identity: identity, attempt: randomValue(&chance), received: randomValue(&chance),
        replay: randomValue(&chance), earlyByteCount: UInt32(chance.below(Specification.earlyMaximum + 1)),
        dataLimit: randomValue(&chance), proof: randomMAC(&chance))
    hello.versionMinimum = UInt8(chance.below(256))
    hello.versionMaximum = UInt8(Int(hello.versionMinimum) + chance.below(256 - Int(hello.versionMinimum)))
    return hello
}

/// The model with one to four mistakes in it.
func spoiled(_ model: [UInt8], _ others: [[UInt8]], _ chance: inout Chance) -> [UInt8] {
    let telling: [UInt8] = [0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0xbf, 0xc0, 0xff]
    var bytes = model
    for _ in 0...chance.below(4) {
        let place = chance.below(bytes.count + 1)
        switch chance.below(7) {
        case 0 where place < bytes.count: bytes[place] ^= 1 << UInt8(chance.below(8))
        case 1 where place < bytes.count: bytes[place] = telling[chance.below(telling.count)]
        case 2: bytes.insert(telling[chance.below(telling.count)], at: place)
        case 3 where place < bytes.count: bytes.remove(at: place)
        case 4: bytes.removeLast(bytes.count - place)
        case 5: bytes.insert(contentsOf: chance.bytes(1 + chance.below(12)), at: place)
        default:
            let other = others[chance.below(others.count)]
            bytes = bytes.prefix(place) + other.suffix(chance.below(other.count + 1))
        }
    }
    return bytes
}

func randomSecret(_ chance: inout Chance) -> Secret {
    chance.oneIn(4) ? .zero : Secret(chance.next(), chance.next(), chance.next(), chance.next())
}
