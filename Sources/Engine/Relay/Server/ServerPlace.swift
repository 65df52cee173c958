import Glibc

/// Tells the places of servers apart, so that a client that is answered by another server than its own can tell a server that was started
/// anew from one that stands behind the same address of a load balancer (docs/protocol.md 4.24).
enum ServerPlace {
    /// Of this host, and of the address where it listens.
    static func number(_ address: String) -> UInt64 {
        var name = [CChar](repeating: 0, count: 256)
        _ = gethostname(&name, name.count - 1)
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in machine + [0] + name.map(UInt8.init(bitPattern:)) + Array(address.utf8) { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        // FNV leaves the high bits of short inputs alike.
        hash = (hash ^ (hash >> 33)) &* 0xff51_afd7_ed55_8ccd
        return hash ^ (hash >> 33)
    }

    /// What the system was given at its installation (machine-id(5)). Empty where there is none.
    private static var machine: [UInt8] {
        let fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return [] }
        defer { close(fd) }
        var bytes = [UInt8](repeating: 0, count: 64)
        return Array(bytes.prefix(max(0, read(fd, &bytes, bytes.count))))
    }
}
