/// Writes frames. The inverse of `decodeFrame`; golden bytes stand in the tests.
extension ByteWriter {
    public mutating func appendOpen(stream: UInt64, target: UInt64, sendCredit: UInt64, receiveCredit: UInt64) {
        append(FrameType.open)
        append(
            varint: UInt64(
                Varint.byteCount(stream) + Varint.byteCount(target)
                    + Varint.byteCount(sendCredit) + Varint.byteCount(receiveCredit)))
        append(varint: stream)
        append(varint: target)
        append(varint: sendCredit)
        append(varint: receiveCredit)
    }

    /// The header; `payloadByteCount` ≥ 1 bytes must follow.
    public mutating func appendDataHeader(stream: UInt64, payloadByteCount: Int) {
        append(FrameType.data)
        append(varint: UInt64(Varint.byteCount(stream) + payloadByteCount))
        append(varint: stream)
    }

    public mutating func appendFin(stream: UInt64, finalSize: UInt64) {
        append(FrameType.fin, stream, finalSize)
    }

    public mutating func appendReset(stream: UInt64, code: ResetCode) {
        append(FrameType.reset, stream, code.rawValue)
    }

    public mutating func appendStreamCredit(stream: UInt64, limit: UInt64) {
        append(FrameType.streamCredit, stream, limit)
    }

    public mutating func appendAcknowledgment(offset: UInt64, dataLimit: UInt64) {
        append(FrameType.acknowledgment, offset, dataLimit)
    }

    public mutating func appendPing(token: UInt64) {
        append(FrameType.ping)
        append(varint: UInt64(Varint.byteCount(token)))
        append(varint: token)
    }

    public mutating func appendPong(token: UInt64) {
        append(FrameType.pong)
        append(varint: UInt64(Varint.byteCount(token)))
        append(varint: token)
    }

    public mutating func appendClose(code: CloseCode, reason: String) {
        let words = reason.utf8.prefix(Specification.reasonMaximum)
        append(FrameType.close)
        append(varint: UInt64(Varint.byteCount(code.rawValue) + words.count))
        append(varint: code.rawValue)
        append(contentsOf: words)
    }

    public mutating func appendSubflows() {
        append(FrameType.subflows)
        append(varint: 0)
    }

    private mutating func append(_ type: UInt8, _ first: UInt64, _ second: UInt64) {
        append(type)
        append(varint: UInt64(Varint.byteCount(first) + Varint.byteCount(second)))
        append(varint: first)
        append(varint: second)
    }
}
