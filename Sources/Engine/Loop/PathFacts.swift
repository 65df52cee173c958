import CSystem
import Glibc

/// What TCP knows of a path, from TCP_INFO: enough to tell a dead carrier from a slow one.
public struct PathFacts: Sendable {
    /// Segments in flight.
    public let unacknowledged: UInt32
    /// Of these, segments that have arrived out of order, or were given up for lost: they are not on the way any more.
    public let arrivedOrLost: UInt32
    /// Bytes of a segment.
    public let segmentByteCount: UInt32
    /// How often the retransmission time-out has doubled.
    public let backoff: UInt8
    /// Milliseconds since the last acknowledgment arrived.
    public let silenceMilliseconds: UInt32
    public let roundTripMicroseconds: UInt32
    public let roundTripVarianceMicroseconds: UInt32
    /// The least of the last minutes; 0 on a kernel that does not say.
    public let minimumRoundTripMicroseconds: UInt32
    /// TCP's congestion window, in segments.
    public let window: UInt32
    /// Bytes that TCP has not sent even once.
    public let unsentByteCount: UInt32
    /// Segments sent with data, and of these, such that were sent again: since the beginning, modulo 2^32.
    public let sentSegments: UInt32
    public let repeatedSegments: UInt32
    /// Segments received with data, and such as came out of order (0 on a kernel that does not say): since the beginning, modulo 2^32.
    public let receivedSegments: UInt32
    public let disorderedSegments: UInt32
    /// Bytes that the peer's kernel has.
    public let acknowledgedByteCount: UInt64
    /// As the last acknowledgments show them; 0: none has shown any.
    public let deliveredBytesPerSecond: UInt64

    /// What the path takes. A handshake may have waited for the peer to say its part again: the first answer knows better.
    public var leastRoundTripMicroseconds: UInt32 {
        minimumRoundTripMicroseconds == 0 ? roundTripMicroseconds : min(roundTripMicroseconds, minimumRoundTripMicroseconds)
    }

    /// Nil when the socket has none.
    public init?(_ fd: Int32) {
        // struct tcp_info of include/uapi/linux/tcp.h: eight bytes of flags, then 32-bit fields. glibc's is older
        // and shorter than what the kernel fills, but begins alike.
        var words = InlineArray<29, UInt64>(repeating: 0)
        var length = socklen_t(MemoryLayout.size(ofValue: words))
        let failed = system_get_option(fd, Int32(IPPROTO_TCP), TCP_INFO, &words, &length)
        guard failed == 0, length >= 80 else { return nil }
        (
            segmentByteCount, unacknowledged, arrivedOrLost, backoff, silenceMilliseconds, roundTripMicroseconds, roundTripVarianceMicroseconds,
            window, acknowledgedByteCount, unsentByteCount, minimumRoundTripMicroseconds, sentSegments, repeatedSegments,
            receivedSegments, disorderedSegments, deliveredBytesPerSecond
        ) = withUnsafeBytes(of: words) { bytes in
            (
                bytes.load(fromByteOffset: 16, as: UInt32.self), bytes.load(fromByteOffset: 24, as: UInt32.self),
                bytes.load(fromByteOffset: 28, as: UInt32.self) &+ bytes.load(fromByteOffset: 32, as: UInt32.self), bytes[4],
                bytes.load(fromByteOffset: 56, as: UInt32.self), bytes.load(fromByteOffset: 68, as: UInt32.self),
                bytes.load(fromByteOffset: 72, as: UInt32.self), bytes.load(fromByteOffset: 80, as: UInt32.self),
                bytes.load(fromByteOffset: 120, as: UInt64.self), bytes.load(fromByteOffset: 144, as: UInt32.self),
                bytes.load(fromByteOffset: 148, as: UInt32.self), bytes.load(fromByteOffset: 156, as: UInt32.self),
                bytes.load(fromByteOffset: 100, as: UInt32.self), bytes.load(fromByteOffset: 152, as: UInt32.self),
                bytes.load(fromByteOffset: 224, as: UInt32.self), bytes.load(fromByteOffset: 160, as: UInt64.self)
            )
        }
    }
}
