import CSlab
import Loop
import Tunnel

/// A user's or an origin's TCP connection: the near end of one stream.
///
///     connecting ─▶ open ─▶ both halves ended ─▶ closing ─▶ (nothing in flight) free
///                     └── reset, by either side ──▲
///
/// `inbound` holds what the user wrote until it has its place in the session's sequence, `outbound` what the peer sent
/// until the user's socket took it. A descriptor is closed when the loop holds none of its operations.
struct UserSocket {
    struct Flags: OptionSet {
        let rawValue: UInt32
        static let connecting = Flags(rawValue: 1 << 0)
        /// `slot` names a stream of `session`.
        static let hasStream = Flags(rawValue: 1 << 1)
        static let receiveSubmitted = Flags(rawValue: 1 << 2)
        static let sendSubmitted = Flags(rawValue: 1 << 3)
        static let watchSubmitted = Flags(rawValue: 1 << 4)
        static let connectSubmitted = Flags(rawValue: 1 << 5)
        /// The user sent FIN.
        static let readEnded = Flags(rawValue: 1 << 6)
        /// The peer's FIN came; it is passed on behind the last byte.
        static let finishOwed = Flags(rawValue: 1 << 7)
        /// It was passed on.
        static let writeEnded = Flags(rawValue: 1 << 8)
        /// The user's connection was reset; RESET follows the bytes that credit still covers.
        static let resetOwed = Flags(rawValue: 1 << 9)
        /// The peer's RESET came; what the socket takes at once is delivered before it.
        static let flushing = Flags(rawValue: 1 << 10)
        static let flushed = Flags(rawValue: 1 << 11)
        static let closing = Flags(rawValue: 1 << 12)
        /// Stands in the list of sockets to flush.
        static let dirty = Flags(rawValue: 1 << 13)
        /// Stands in the session's list of readers that wait for room.
        static let readBlocked = Flags(rawValue: 1 << 14)
        /// Bytes come fast: receive into a slab of its own.
        static let hot = Flags(rawValue: 1 << 15)

        static let inFlight: Flags = [.receiveSubmitted, .sendSubmitted, .watchSubmitted, .connectSubmitted]
    }

    var fd: Int32
    var flags: Flags
    var generation: UInt32
    var slot: StreamSlot = 0
    var session: Unmanaged<SessionHost>?
    var inbound = byte_queue()
    var outbound = byte_queue()
    /// The slab that a hot socket receives into, and how much of it is filled.
    var block: UnsafeMutableRawPointer?
    var filled = 0
    /// When the armed receive of a hot socket was submitted, to take its slab back when nothing comes.
    var armedAt: UInt64 = 0
    /// Server: which of the origin's addresses is being tried.
    var addressIndex = 0

    var hasOperations: Bool { !flags.isDisjoint(with: .inFlight) }
    var mayReceive: Bool {
        flags.isDisjoint(with: [.receiveSubmitted, .readEnded, .closing, .connecting, .flushing, .resetOwed, .readBlocked])
            && flags.contains(.hasStream)
    }
    var inboundCount: Int { queue_count_of(inbound) }
    var outboundCount: Int { queue_count_of(outbound) }
}

@inline(__always)
func queue_count_of(_ queue: byte_queue) -> Int { Int(queue.tail - queue.head) }
