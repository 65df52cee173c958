/// What stands before each chunk of a carrier's bytes on one of its subflows (docs/protocol.md 4.28).
public struct ChunkHeader: Equatable, Sendable {
    /// Where the chunk begins: bytes of its direction that were sent since SUBFLOWS.
    public let offset: UInt64
    /// Bytes that follow, 1…`Specification.chunkMaximum`.
    public let byteCount: Int

    public init(offset: UInt64, byteCount: Int) { (self.offset, self.byteCount) = (offset, byteCount) }

    public static let encodedByteCount = 8 + 4

    public func encode(into writer: inout ByteWriter) {
        writer.append(integer: offset)
        writer.append(integer: UInt32(byteCount))
    }

    /// Reads the header at the start of `bytes`; nil when more bytes are needed.
    public static func decode(_ bytes: RawSpan) throws(ProtocolFault) -> ChunkHeader? {
        var at = 0
        guard let offset = bytes.integer(UInt64.self, at: &at), let count = bytes.integer(UInt32.self, at: &at) else { return nil }
        guard count > 0, count <= Specification.chunkMaximum else { throw ProtocolFault("a chunk has an impossible length") }
        guard offset <= Specification.offsetMaximum - UInt64(count) else { throw ProtocolFault("a chunk has an impossible offset") }
        return ChunkHeader(offset: offset, byteCount: Int(count))
    }
}
