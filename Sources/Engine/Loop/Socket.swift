import CSystem
import Glibc

/// What the loop does to sockets besides moving bytes. Descriptors are plain numbers here; who owns one closes it, and
/// only when the ring holds none of its operations.
public enum Socket {
    /// A listening socket. On Linux an IPv6 wildcard takes IPv4 too. A Unix-domain socket that a dead process left is
    /// replaced. `access`: who may connect to it.
    /// `beforehand`: also at an address that this machine does not have yet (ip(7), IP_FREEBIND); connections come when it has.
    public static func listen(on address: Address, access: SocketAccess = SocketAccess(), beforehand: Bool = false) throws(SystemError) -> Int32 {
        let fd = try make(address.family)
        do throws(SystemError) {
            try set(fd, SOL_SOCKET, SO_REUSEADDR, 1)
            if address.family == AF_INET6 { try set(fd, Int32(IPPROTO_IPV6), IPV6_V6ONLY, address.isAny ? 0 : 1) }
            // IPV6_FREEBIND is in linux/in6.h, not in glibc's headers.
            if beforehand, address.family == AF_INET { try set(fd, Int32(IPPROTO_IP), IP_FREEBIND, 1) }
            if beforehand, address.family == AF_INET6 { try set(fd, Int32(IPPROTO_IPV6), 78, 1) }
            // bind(2) makes the file with the mode of the socket, less the umask: nobody slips in between.
            if address.path != nil, access.mode != nil || access.group != nil { fchmod(fd, 0o600) }
            let failed = address.withPointer { system_bind(fd, $0, $1) }
            if failed != 0 {
                guard -failed == EADDRINUSE, let path = address.path, isAbandoned(path, address), unlink(path) == 0,
                    address.withPointer({ system_bind(fd, $0, $1) }) == 0
                else { throw SystemError(-failed) }
            }
            if let path = address.path { try access.apply(to: path) }
            tune(fd, address.isLoopback)
            let refused = system_listen(fd, 4096)
            guard refused == 0 else { throw SystemError(-refused) }
            return fd
        } catch {
            system_close(fd)
            throw error
        }
    }

    /// A socket file whose process is gone.
    private static func isAbandoned(_ path: String, _ address: Address) -> Bool {
        var status = stat()
        guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK, let fd = try? make(AF_UNIX) else { return false }
        defer { system_close(fd) }
        return address.withPointer { system_connect(fd, $0, $1) } == -ECONNREFUSED
    }

    /// The next connection that waits, without the loop. Nil: none, or none that could be accepted: the loop's next accept says why.
    /// No accept of the loop is under way.
    public static func accept(_ listener: Int32) -> Int32? {
        let fd = system_accept(listener)
        return fd >= 0 ? fd : nil
    }

    /// A socket about to connect. `interface`: the one that it leaves through, by its index; 0: as the routes say.
    public static func dialling(_ address: Address, through interface: UInt32 = 0) throws(SystemError) -> Int32 {
        let fd = try make(address.family)
        tune(fd, address.isLoopback)
        do throws(SystemError) { try bind(fd, to: interface) } catch {
            system_close(fd)
            throw error
        }
        return fd
    }

    /// SO_BINDTOIFINDEX of asm-generic/socket.h; needs no privilege on a fresh socket (Linux 5.7).
    private static func bind(_ fd: Int32, to interface: UInt32) throws(SystemError) {
        if interface != 0 { try set(fd, SOL_SOCKET, 62, Int32(bitPattern: interface)) }
    }

    /// The local address from which the kernel would reach `address` now, through `interface` where it is not 0. Nil: no route.
    public static func source(to address: Address, through interface: UInt32 = 0) -> Address? {
        guard address.path == nil else { return nil }
        let fd = system_socket(address.family, Int32(SYSTEM_DATAGRAM), 0)
        guard fd >= 0 else { return nil }
        defer { system_close(fd) }
        guard (try? bind(fd, to: interface)) != nil else { return nil }
        // Connecting a datagram socket sends nothing: it looks the route up.
        guard address.withPointer({ system_connect(fd, $0, $1) }) == 0 else { return nil }
        return localAddress(fd)?.withoutPort
    }

    public static func localAddress(_ fd: Int32) -> Address? { name(fd, system_local_name) }
    public static func peerAddress(_ fd: Int32) -> Address? { name(fd, system_peer_name) }

    /// Where an accepted connection was going before a rule of the packet filter led it here. Nil: none did.
    public static func originalDestination(_ fd: Int32) -> Address? {
        // SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and its like of linux/netfilter_ipv6/ip6_tables.h.
        let option: Int32 = 80
        let family = localAddress(fd)?.family
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        // A socket of IPv6 may carry IPv4.
        for level in family == AF_INET6 ? [Int32(IPPROTO_IPV6), Int32(IPPROTO_IP)] : [Int32(IPPROTO_IP)] {
            guard system_get_option(fd, level, option, &storage, &length) == 0 else { continue }
            return withUnsafePointer(to: &storage) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { Address($0, length) } }
        }
        return nil
    }

    /// How a connect to `address` ended. Where nobody listens at a port of this machine, the kernel may choose that very port for the
    /// connect, which then meets itself (RFC 9293 §3.5, simultaneous open): what is sent comes back, and no listener gets the port. Such
    /// a connect was refused; the socket is reset when it is closed.
    public static func ending(ofConnect fd: Int32, to address: Address, _ error: SystemError?) -> SystemError? {
        guard error == nil, localAddress(fd) == address else { return error }
        abortOnClose(fd)
        return SystemError(ECONNREFUSED)
    }

    /// Small writes leave at once; a peer on this machine gets cubic, which costs a third less than bbr there. An urgent byte
    /// (RFC 9293 §3.8.5) stays in its place among the others: without SO_OOBINLINE a receive skips it. Accepted sockets
    /// inherit this from their listener, so no byte arrives before it is set.
    /// Failing to tune is no reason not to talk.
    public static func tune(_ fd: Int32, _ isLoopback: Bool) {
        try? set(fd, SOL_SOCKET, SO_OOBINLINE, 1)
        try? set(fd, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        if isLoopback {
            let name: StaticString = "cubic"
            _ = system_set_option(fd, Int32(IPPROTO_TCP), TCP_CONGESTION, name.utf8Start, socklen_t(name.utf8CodeUnitCount))
        }
    }

    /// The name of the congestion control in use; empty where there is none.
    public static func congestionControl(_ fd: Int32) -> String {
        var name = [UInt8](repeating: 0, count: 16)
        var length = socklen_t(name.count)
        guard system_get_option(fd, Int32(IPPROTO_TCP), TCP_CONGESTION, &name, &length) == 0 else { return "" }
        return String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
    }

    /// False: this system does not have it, or does not let this user have it.
    public static func setCongestionControl(_ fd: Int32, _ name: String) -> Bool {
        var name = name
        return name.withUTF8 { system_set_option(fd, Int32(IPPROTO_TCP), TCP_CONGESTION, $0.baseAddress, socklen_t($0.count)) } == 0
    }

    /// Users' sockets: a peer that vanished is noticed after some hours, as anywhere. `unsentMaximum`: bytes that the kernel takes
    /// ahead of what it may send; nil: as many as it likes.
    public static func tuneUser(_ fd: Int32, unsentMaximum: Int?) {
        try? set(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
        let notSentLowWater: Int32 = 25  // TCP_NOTSENT_LOWAT
        if let unsentMaximum { try? set(fd, Int32(IPPROTO_TCP), notSentLowWater, Int32(clamping: unsentMaximum)) }
    }

    /// Whether close(2), or the end of the process, sends RST and discards what is queued, or lets it leave in order.
    public static func abortOnClose(_ fd: Int32, _ aborts: Bool = true) {
        var option = linger(l_onoff: aborts ? 1 : 0, l_linger: 0)
        _ = system_set_option(fd, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }

    /// The kernel itself asks an idle peer whether it is there: after `idle` seconds, and then every third of it (tcp(7), TCP_KEEPIDLE).
    public static func keepAlive(_ fd: Int32, idle: Int32) {
        try? set(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
        try? set(fd, Int32(IPPROTO_TCP), TCP_KEEPIDLE, idle)
        try? set(fd, Int32(IPPROTO_TCP), TCP_KEEPINTVL, max(1, idle / 3))
        try? set(fd, Int32(IPPROTO_TCP), TCP_KEEPCNT, 3)
    }

    /// An option of TCP by its number. Older kernels lack some: no reason not to talk.
    public static func setTCP(_ fd: Int32, _ option: Int32, _ value: Int32) { try? set(fd, Int32(IPPROTO_TCP), option, value) }

    /// The peer may send so much ahead, soon after the beginning, not when the kernel has measured for many round trips. The kernel
    /// still measures, and may give more (SO_RCVLOWAT moves the buffer without fixing it, tcp_set_rcvlowat; Linux 4.18).
    public static func widenReceive(_ fd: Int32, _ byteCount: Int32) {
        guard (try? set(fd, SOL_SOCKET, SO_RCVLOWAT, byteCount)) != nil else { return }
        try? set(fd, SOL_SOCKET, SO_RCVLOWAT, 1)
    }

    /// Takes over a socket that another process has opened.
    public static func adopt(_ fd: Int32) {
        try? set(fd, SOL_SOCKET, SO_OOBINLINE, 1)
        _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
        _ = fcntl(fd, F_SETFD, FD_CLOEXEC)
    }

    /// Whether execve(2) leaves the descriptor open (FD_CLOEXEC).
    public static func keep(_ fd: Int32, beyondProgram stays: Bool) { if !system_is_simulated() { _ = fcntl(fd, F_SETFD, stays ? 0 : FD_CLOEXEC) } }

    /// Connections that nobody has accepted are refused from now on.
    public static func shutdownListening(_ fd: Int32) { _ = system_shutdown(fd, Int32(SHUT_RDWR)) }

    /// The file of a Unix-domain socket.
    public static func removeFile(_ path: String) { unlink(path) }

    public static func shutdownWriting(_ fd: Int32) { _ = system_shutdown(fd, Int32(SHUT_WR)) }

    /// Bytes that the kernel holds of a TCP socket's sends: not acknowledged, sent or not (SIOCOUTQ).
    public static func heldByteCount(_ fd: Int32) -> Int { Int(max(0, system_unacknowledged(fd))) }

    /// Bytes that a send to a user would take now; about, and rather too few: a quarter of the buffer is left to the kernel's own
    /// overhead.
    /// `unsentMaximum`: as for `tuneUser`.
    public static func sendRoom(_ fd: Int32, unsentMaximum: Int?) -> Int {
        var size: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard system_get_option(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0 else { return 0 }
        let room = Int(size) / 4 * 3 - heldByteCount(fd)
        guard let unsentMaximum else { return max(0, room) }
        return max(0, min(room, unsentMaximum - Int(max(0, system_unsent(fd)))))
    }

    /// Something has arrived that was not received.
    public static func hasBytes(_ fd: Int32) -> Bool { system_unread(fd) > 0 }

    /// Sends at once what the socket takes, without the loop; more follows at once. Bytes taken.
    public static func send(_ fd: Int32, _ iovecs: UnsafePointer<iovec>, _ count: Int) -> Pipe.Moved {
        Pipe.moved(system_send_more(fd, iovecs, count))
    }

    /// Receives at once what has arrived, without the loop.
    public static func receive(_ fd: Int32, _ memory: UnsafeMutableRawPointer, _ count: Int) -> Pipe.Moved {
        Pipe.moved(system_read(fd, memory, count))
    }

    public static func close(_ fd: Int32) { system_close(fd) }

    public static func isListening(_ fd: Int32) -> Bool {
        var answer: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return system_get_option(fd, SOL_SOCKET, SO_ACCEPTCONN, &answer, &length) == 0 && answer != 0
    }

    /// The pending error, which is cleared.
    public static func takeError(_ fd: Int32) -> SystemError? {
        var code: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard system_get_option(fd, SOL_SOCKET, SO_ERROR, &code, &length) == 0, code != 0 else { return nil }
        return SystemError(code)
    }

    private static func make(_ family: Int32) throws(SystemError) -> Int32 {
        let fd = system_socket(family, Int32(SYSTEM_STREAM), 0)
        guard fd >= 0 else { throw SystemError(-fd) }
        return fd
    }

    private static func set(_ fd: Int32, _ level: Int32, _ option: Int32, _ value: Int32) throws(SystemError) {
        var value = value
        let failed = system_set_option(fd, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
        guard failed == 0 else { throw SystemError(-failed) }
    }

    private static func name(
        _ fd: Int32,
        _ call: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>)
            -> Int32
    ) -> Address? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
                call(fd, name, &length) == 0 ? Address(name, length) : nil
            }
        }
    }
}
