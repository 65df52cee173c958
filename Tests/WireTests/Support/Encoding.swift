import Wire

/// The bytes that `write` writes.
func written(_ write: (inout ByteWriter) -> Void) -> [UInt8] {
    withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 8) { memory in
        var writer = ByteWriter(memory)
        write(&writer)
        return Array(memory[..<writer.count])
    }
}

/// The bytes of a frame, of DATA its header; nil for an unknown one, which nobody writes.
func encoded(_ frame: Frame) -> [UInt8]? {
    if case .unknown = frame { return nil }
    return written { writer in
        switch frame {
        case .open(let stream, let target, let sendCredit, let receiveCredit):
            writer.appendOpen(stream: stream, target: target, sendCredit: sendCredit, receiveCredit: receiveCredit)
        case .data(let stream, let payload): writer.appendDataHeader(stream: stream, payloadByteCount: payload)
        case .fin(let stream, let finalSize): writer.appendFin(stream: stream, finalSize: finalSize)
        case .reset(let stream, let code): writer.appendReset(stream: stream, code: code)
        case .streamCredit(let stream, let limit): writer.appendStreamCredit(stream: stream, limit: limit)
        case .acknowledgment(let offset, let limit): writer.appendAcknowledgment(offset: offset, dataLimit: limit)
        case .ping(let token): writer.appendPing(token: token)
        case .pong(let token): writer.appendPong(token: token)
        case .close(let code, let reason): writer.appendClose(code: code, reason: reason)
        case .subflows: writer.appendSubflows()
        case .welcome(let welcome): welcome.encode(into: &writer)
        case .refuse(let refusal): refusal.encode(into: &writer)
        case .unknown: break
        }
    }
}

func encoded(_ hello: Hello) -> [UInt8] { written { hello.encode(into: &$0) } }

/// Bytes as a person writes them: two digits each, with white space anywhere and notes behind `;`.
func bytes(_ text: String) -> [UInt8] {
    text.split(whereSeparator: \.isNewline).flatMap { line in
        line.prefix { $0 != ";" }.split(separator: " ").map { pair in
            guard pair.utf8.count == 2, let byte = UInt8(pair, radix: 16) else { fatalError("no byte: \(pair)") }
            return byte
        }
    }
}

/// A varint that takes `count` bytes (1, 2, 4 or 8), which may be more than it needs.
func varint(_ value: UInt64, in count: Int) -> [UInt8] {
    let prefix: UInt8 =
        switch count {
        case 1: 0x00;
        case 2: 0x40;
        case 4: 0x80;
        default: 0xc0
        }
    var result = (0..<count).reversed().map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    precondition(count == 8 ? value < 1 << 62 : value < 1 << (count * 8 - 2), "does not fit")
    result[0] |= prefix
    return result
}

/// A frame as its parts: type, length of the body, body.
func frame(_ type: UInt8, _ body: [UInt8], length: [UInt8]? = nil) -> [UInt8] {
    [type] + (length ?? varint(UInt64(body.count), in: body.count < 64 ? 1 : 2)) + body
}
