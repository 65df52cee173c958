import Control
import CSlab
import Loop
import Tunnel

/// A user's or an origin's TCP connection: the near end of one stream. Its life is `SocketLife`.
///
/// `inbound` holds what the user wrote until it has its place in the session's sequence, `outbound` what the peer sent
/// until the user's socket took it. A descriptor is closed when the loop holds none of its operations.
struct LocalSocket {
    /// The lists of its owner that it is in.
    struct Lists: OptionSet {
        let rawValue: UInt8
        /// Sockets to flush in this iteration.
        static let dirty = Lists(rawValue: 1)
        /// The session's readers that wait for room.
        static let blocked = Lists(rawValue: 2)
        /// Bytes come fast: it receives into a slab of its own.
        static let hot = Lists(rawValue: 4)
        /// Bytes come fast, and go into the carrier without being copied.
        static let spliced = Lists(rawValue: 8)
        /// Those of the session that wait for their turn.
        static let splicing = Lists(rawValue: 16)
        /// The kernel reported it readable, and no splice has moved a byte since.
        static let readable = Lists(rawValue: 32)
        /// A pooled receive is under way, for which the session's account has room set apart.
        static let expecting = Lists(rawValue: 64)
        /// Server: where its stream leads is not known yet; its first bytes say so.
        static let unnamed = Lists(rawValue: 128)
    }

    /// -1 while it connects: attempts have descriptors of their own.
    var fd: Int32
    /// This entry of the table is in use.
    var isThere = false
    var life: SocketLife
    var lists: Lists = []
    /// While flushing: only what the socket takes at once is delivered, and that was tried.
    var flushesOnce = false
    var flushed = false
    var mapping = MappingPlace.listener(0)
    var generation: UInt32
    var slot: StreamSlot = 0
    /// While it waits for a connection to its origin; `Origins` owns it.
    var opening: Unmanaged<Origins.Opening>?
    /// While it has a stream.
    var session: Unmanaged<Session>?
    var inbound = byte_queue()
    var outbound = byte_queue()
    /// The slab that a hot socket receives into, and how much of it is filled.
    var block: UnsafeMutableRawPointer?
    var filled = 0
    /// Bytes for the user that lie in pipes, before those of `outbound`.
    var backlog: PipeBacklog?
    /// What it receives into while it may read less than a buffer of the pool, where bytes are kept for a successor.
    var small: UnsafeMutableRawPointer?
    /// Bytes that were ever read from it and written to it, as the kernel counts them, where a successor may have to ask the kernel.
    var (readCount, writtenCount): (UInt64, UInt64) = (0, 0)
    /// Its record in the ledger, and whether it is in the list of those that changed since the last commit.
    var record: UInt32 = 0
    var isTouched = false
    /// Bytes that came since some moment, a short time ago.
    var counted = 0
    var countedSince: UInt64 = 0
    /// Short splices, nearly in a row.
    var streak: UInt8 = 0
    /// When the receive of a hot socket was armed, whose slab is taken back when nothing comes.
    var armedAt: UInt64 = 0

    init(fd: Int32, isConnecting: Bool, generation: UInt32) {
        self.fd = fd
        life = SocketLife(isConnecting: isConnecting)
        self.generation = generation
        queue_init(&inbound, 0)
        queue_init(&outbound, 0)
    }

    var inboundCount: Int { queue_count_of(inbound) }
    var outboundCount: Int { (backlog?.byteCount ?? 0) + queue_count_of(outbound) }
}

@inline(__always)
func queue_count_of(_ queue: byte_queue) -> Int { Int(queue.tail - queue.head) }
