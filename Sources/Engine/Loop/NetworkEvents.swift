import CSystem
import Glibc

/// Word from the kernel that links, addresses or routes changed: the moment to try a carrier again (rtnetlink(7), needs
/// no privilege).
public struct NetworkEvents {
    public let fd: Int32

    /// Nil where netlink is forbidden; the probes then come at their own pace.
    public init?() {
        fd = system_socket(AF_NETLINK, Int32(SYSTEM_RAW), 0)  // protocol 0 is NETLINK_ROUTE
        guard fd >= 0 else { return nil }
        // struct sockaddr_nl: family, padding, pid, groups.
        let groups: UInt32 = 0x1 | 0x10 | 0x100 | 0x40 | 0x400  // link, IPv4 and IPv6 addresses and routes
        var address: (UInt16, UInt16, UInt32, UInt32) = (UInt16(AF_NETLINK), 0, 0, groups)
        let size = socklen_t(MemoryLayout.size(ofValue: address))
        let failed = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { system_bind(fd, $0, size) }
        }
        guard failed == 0 else {
            system_close(fd)
            return nil
        }
    }

    /// Reads all that waits; what it says does not matter, only that it came.
    public func drain() {
        var buffer: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        while true {
            // ENOBUFS: more came than the kernel kept, and there may be more still.
            let count = system_read(fd, &buffer, MemoryLayout.size(ofValue: buffer))
            guard count > 0 || count == -Int(ENOBUFS) else { return }
        }
    }
}
