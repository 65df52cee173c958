import Wire

/// The order of bytes that come in chunks over several connections (docs/protocol.md 4.28). Pure: told of each chunk's header, says whose bytes
/// are next.
///
/// On each connection chunks come in order. So the next one is always the first of some connection, and that one is always read: a chunk that is
/// not next can wait where it is, in its connection's buffer, and nothing has to be stored for it.
public struct ChunkOrder: Sendable {
    /// What is left of the chunk that a connection brings.
    public struct Chunk: Equatable, Sendable {
        public fileprivate(set) var offset: UInt64
        public fileprivate(set) var byteCount: Int
    }

    /// Bytes that were read, which is where the next chunk begins.
    public private(set) var next: UInt64 = 0

    public init() {}

    /// A connection brings this chunk.
    public func begin(_ header: ChunkHeader) throws(ProtocolFault) -> Chunk {
        guard header.offset >= next else { throw ProtocolFault("a chunk repeats what was sent before") }
        return Chunk(offset: header.offset, byteCount: header.byteCount)
    }

    /// Its bytes are next.
    public func isDue(_ chunk: Chunk) -> Bool {
        #if CANARIES
        if Canary.selected == .readsChunksAsTheyCome { return true }
        #endif
        return chunk.offset == next
    }

    /// Another connection brought the bytes that this one waits to bring.
    public func isPast(_ chunk: Chunk) -> Bool { chunk.offset < next }

    /// The first `count` bytes of a chunk that is due were read. True: the chunk is over.
    public mutating func read(_ count: Int, of chunk: inout Chunk) -> Bool {
        precondition(count <= chunk.byteCount, "read more than the chunk has")
        chunk.offset += UInt64(count)
        chunk.byteCount -= count
        next += UInt64(count)
        return chunk.byteCount == 0
    }
}
