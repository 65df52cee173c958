/// One frame, as it was read. DATA stands for its header only: the payload follows in the byte sequence.
public enum Frame: Equatable {
    // Sequenced: retransmitted until acknowledged.
    /// The opener assumes `sendCredit` for its own bytes and grants `receiveCredit` for the answer.
    case open(stream: UInt64, target: UInt64, sendCredit: UInt64, receiveCredit: UInt64)
    case data(stream: UInt64, payloadByteCount: Int)
    case fin(stream: UInt64, finalSize: UInt64)
    case reset(stream: UInt64, code: ResetCode)
    case streamCredit(stream: UInt64, limit: UInt64)
    // Unsequenced: state of this moment, never repeated.
    case acknowledgment(offset: UInt64, dataLimit: UInt64)
    case ping(token: UInt64)
    case pong(token: UInt64)
    case close(code: CloseCode, reason: String)
    case welcome(Welcome)
    case refuse(Refusal)
    /// The sender's bytes go on in chunks, over the carrier's subflows.
    case subflows
    /// Unknown, optional, to be passed over.
    case unknown(sequenced: Bool)

    @inlinable
    public var isSequenced: Bool {
        switch self {
        case .open, .data, .fin, .reset, .streamCredit: true
        case .acknowledgment, .ping, .pong, .close, .welcome, .refuse, .subflows: false
        case .unknown(let sequenced): sequenced
        }
    }
}

/// Reads the frame at the start of `bytes`. Total: any input yields a frame, nil (more bytes are needed) or a fault,
/// and lengths are judged before anything waits for them.
/// `byteCount` is that of the whole frame, for DATA that of the header.
public func decodeFrame(_ bytes: RawSpan) throws(ProtocolFault) -> (frame: Frame, byteCount: Int)? {
    var offset = 0
    guard let type = bytes.byte(at: &offset) else { return nil }
    guard let length = bytes.varint(at: &offset) else { return nil }

    if type == FrameType.data {
        guard length <= Specification.dataBodyMaximum else { throw ProtocolFault("DATA is longer than 1 MiB") }
        let bodyStart = offset
        guard let stream = bytes.varint(at: &offset) else {
            guard length > bytes.byteCount - bodyStart else { throw ProtocolFault("DATA is too short for its stream") }
            return nil
        }
        let payload = Int(length) - (offset - bodyStart)
        guard payload > 0 else { throw ProtocolFault("DATA carries no bytes") }
        return (.data(stream: stream, payloadByteCount: payload), offset)
    }

    guard length <= Specification.controlBodyMaximum else { throw ProtocolFault("a control frame is longer than 1 KiB") }
    let end = offset + Int(length)
    guard bytes.byteCount >= end else { return nil }
    let frame = try decodeBody(type, bytes.extracting(offset..<end))
    return (frame, end)
}

private func decodeBody(_ type: UInt8, _ body: RawSpan) throws(ProtocolFault) -> Frame {
    var offset = 0
    func value() throws(ProtocolFault) -> UInt64 {
        guard let value = body.varint(at: &offset) else { throw ProtocolFault("a frame ends inside a field") }
        return value
    }
    let frame: Frame
    switch type {
    case FrameType.acknowledgment:
        frame = .acknowledgment(offset: try value(), dataLimit: try value())
    case FrameType.streamCredit:
        frame = .streamCredit(stream: try value(), limit: try value())
    case FrameType.open:
        frame = .open(stream: try value(), target: try value(), sendCredit: try value(), receiveCredit: try value())
    case FrameType.fin:
        frame = .fin(stream: try value(), finalSize: try value())
    case FrameType.reset:
        frame = .reset(stream: try value(), code: ResetCode(rawValue: try value()))
    case FrameType.ping:
        frame = .ping(token: try value())
    case FrameType.pong:
        frame = .pong(token: try value())
    case FrameType.close:
        let code = CloseCode(rawValue: try value())
        return .close(code: code, reason: readableReason(body.extracting(offset..<body.byteCount)))
    case FrameType.welcome:
        return .welcome(try Welcome(decoding: body))
    case FrameType.refuse:
        return .refuse(try Refusal(decoding: body))
    case FrameType.subflows:
        frame = .subflows
    default:
        guard type & FrameType.optional != 0 else { throw ProtocolFault("a frame of an unknown mandatory type") }
        return .unknown(sequenced: type & FrameType.sequenced != 0)
    }
    guard offset == body.byteCount else { throw ProtocolFault("a frame is longer than its fields") }
    return frame
}

/// A peer's words, made harmless for a log: printable ASCII, bounded.
func readableReason(_ bytes: RawSpan) -> String {
    var text = ""
    for index in 0..<min(bytes.byteCount, Specification.reasonMaximum) {
        let byte = bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
        text.unicodeScalars.append(byte >= 0x20 && byte < 0x7f ? Unicode.Scalar(byte) : "?")
    }
    return text
}
