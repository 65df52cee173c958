import CSystem
import Glibc

/// How many bytes a process ever read from a TCP connection, and wrote to it, as the kernel knows: also of calls whose process died before
/// they returned.
public struct TransferCounts: Equatable, Sendable {
    public let read: UInt64
    public let written: UInt64

    /// `isDialled`: this side connected. Nil: no connection of TCP, or one that was reset.
    ///
    /// bytes_received counts the peer's FIN as a byte, bytes_acked this side's SYN, and it or the queue this side's FIN. While bytes arrive the two questions must see one moment.
    public init?(_ fd: Int32, isDialled: Bool) {
        for _ in 0..<1000 {
            guard let before = TransferCounts.information(fd) else { return nil }
            let (unread, held) = (system_unread(fd), system_unacknowledged(fd))
            guard let after = TransferCounts.information(fd) else { return nil }
            guard before == after else { continue }
            // An error that a call has read leaves no trace but that the counts are one less: no FIN was among the bytes.
            guard unread >= 0, held >= 0, let ends = TransferCounts.ends[before.state], !system_has_failed(fd) else { return nil }
            let (fin, syn): (UInt64, UInt64) = (ends.peers ? 1 : 0, (isDialled ? 1 : 0) + (ends.own ? 1 : 0))
            guard before.received >= UInt64(unread) + fin, before.acknowledged + UInt64(held) >= syn else { return nil }
            read = before.received - UInt64(unread) - fin
            written = before.acknowledged + UInt64(held) - syn
            return
        }
        return nil
    }

    /// Whose FIN has been sent, by the state of the connection: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE (both ends are through; bytes may be
    /// unread), CLOSE_WAIT, LAST_ACK, CLOSING.
    private static let ends: [UInt8: (own: Bool, peers: Bool)] = [
        1: (false, false), 4: (true, false), 5: (true, false), 7: (true, true), 8: (false, true), 9: (true, true), 11: (true, true),
    ]

    private struct Information: Equatable {
        var state: UInt8 = 0
        var acknowledged: UInt64 = 0
        var received: UInt64 = 0
    }

    /// struct tcp_info of include/uapi/linux/tcp.h: the state is its first byte, the counts lie at 120 and 128 (Linux 4.1).
    private static func information(_ fd: Int32) -> Information? {
        var bytes = [UInt8](repeating: 0, count: 136)
        var length = socklen_t(bytes.count)
        guard system_get_option(fd, Int32(IPPROTO_TCP), TCP_INFO, &bytes, &length) == 0, length == 136 else { return nil }
        return bytes.withUnsafeBytes { raw in
            Information(
                state: raw[0], acknowledged: raw.load(fromByteOffset: 120, as: UInt64.self), received: raw.load(fromByteOffset: 128, as: UInt64.self))
        }
    }
}
