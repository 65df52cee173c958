import Glibc
import Testing

/// A descriptor that closes itself, once.
final class Socket {
    private(set) var fd: Int32

    init(_ fd: Int32) { self.fd = fd }
    deinit { close() }

    convenience init(nonBlocking fd: Int32) {
        self.init(fd)
        _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
    }

    func close() {
        if fd >= 0 { _ = Glibc.close(fd) }
        fd = -1
    }

    /// Ends the connection with RST instead of FIN.
    func reset() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
        close()
    }

    func finish() { #expect(Glibc.shutdown(fd, Int32(SHUT_WR)) == 0) }

    /// Puts another socket under this one's number, as a close and an accept would.
    func replace(by other: Socket) {
        #expect(dup2(other.fd, fd) == fd)
        other.close()
    }

    func limitBuffers(to bytes: Int32) {
        var bytes = bytes
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, 4)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, 4)
    }

    /// Straight from the kernel, past the ring. Waits up to two seconds for a byte; empty: end of stream.
    func plainReceive(_ count: Int = 65536) throws -> [UInt8] {
        var state = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        try #require(poll(&state, 1, 2000) == 1, "nothing came")
        var bytes = [UInt8](repeating: 0, count: count)
        let received = recv(fd, &bytes, count, 0)
        try #require(received >= 0, "recv: errno \(errno)")
        bytes.removeLast(count - received)
        return bytes
    }

    func plainReceiveAll(_ count: Int) throws -> [UInt8] {
        var all: [UInt8] = []
        while all.count < count {
            let bytes = try plainReceive(min(65536, count - all.count))
            try #require(!bytes.isEmpty, "the stream ended after \(all.count) of \(count) bytes")
            all += bytes
        }
        return all
    }

    /// Sends until the socket takes no more; how many bytes.
    func plainFill() throws -> Int {
        let bytes = [UInt8](repeating: 0, count: 1 << 16)
        var filled = 0
        while true {
            let sent = Glibc.send(fd, bytes, bytes.count, Int32(MSG_DONTWAIT))
            guard sent > 0 else { return filled }
            filled += sent
        }
    }

    func plainSend(_ bytes: [UInt8]) {
        #expect(Glibc.send(fd, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count)
    }

    var port: UInt16 { address.sin_port.bigEndian }

    var address: sockaddr_in {
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = getsockname(fd, $0, &length) }
        }
        return address
    }

    // MARK: Making

    static func tcp() throws -> Socket {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let fd = socket(AF_INET, type, 0)
        try #require(fd >= 0, "socket: errno \(errno)")
        return Socket(fd)
    }

    /// `host`: the last byte of its address, 127.0.0.N.
    static func listener(backlog: Int32 = 4096, host: UInt32 = 1) throws -> Socket {
        let listener = try tcp()
        var address = sockaddr_in.loopback(port: 0)
        address.sin_addr.s_addr = (0x7f00_0000 | host).bigEndian
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener.fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(bound == 0, "bind: errno \(errno)")
        try #require(listen(listener.fd, backlog) == 0)
        return listener
    }

    /// Nothing holds a listener at the address any more. A bind would tell too, but also of an outgoing connection that another test
    /// was given this port for. Of an address that other tests use, a listener of theirs may have the port, or the connect may meet itself.
    static func expectNobodyListens(at address: sockaddr_in) throws {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        try #require(fd >= 0, "socket: errno \(errno)")
        defer { Glibc.close(fd) }
        var address = address
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        #expect(result == -1 && errno == ECONNREFUSED, "somebody listens at \(address.sin_port.bigEndian)")
    }

    /// Starts a connect past the ring; on loopback it is established at once while the backlog has room.
    static func connected(to listener: Socket) throws -> Socket {
        let socket = try tcp()
        var address = listener.address
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(socket.fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(result == 0 || errno == EINPROGRESS, "connect: errno \(errno)")
        return socket
    }

    /// Two ends of one TCP connection over loopback.
    static func pair() throws -> (Socket, Socket) {
        let listener = try listener(backlog: 1)
        return try pair(through: listener)
    }

    static func pair(through listener: Socket) throws -> (Socket, Socket) {
        let one = try connected(to: listener)
        var state = pollfd(fd: listener.fd, events: Int16(POLLIN), revents: 0)
        try #require(poll(&state, 1, 5000) == 1)
        let other = accept(listener.fd, nil, nil)
        try #require(other >= 0, "accept: errno \(errno)")
        return (one, Socket(nonBlocking: other))
    }

    /// The reading and the writing end.
    static func pipe() throws -> (Socket, Socket) {
        var ends: [Int32] = [-1, -1]
        try #require(Glibc.pipe(&ends) == 0)
        return (Socket(nonBlocking: ends[0]), Socket(nonBlocking: ends[1]))
    }

    static let descriptorLimit: Int = {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        return Int(limit.rlim_cur)
    }()
}

extension sockaddr_in {
    static func loopback(port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = port.bigEndian
        return address
    }
}

/// Memory that stays where it is while an operation holds it.
final class Memory {
    let start: UnsafeMutableRawPointer
    let count: Int

    init(count: Int) {
        self.count = count
        start = .allocate(byteCount: count, alignment: 16)
        start.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    }

    convenience init(_ bytes: [UInt8]) {
        self.init(count: bytes.count)
        start.copyMemory(from: bytes, byteCount: bytes.count)
    }

    convenience init(_ text: String) { self.init([UInt8](text.utf8)) }
    deinit { start.deallocate() }

    func bytes(_ count: Int32) -> [UInt8] {
        [UInt8](UnsafeRawBufferPointer(start: start, count: Int(count)))
    }

    func text(_ count: Int32) -> String { String(decoding: bytes(count), as: UTF8.self) }
}

/// Bytes in which a piece that is lost, doubled or misplaced shows: their period, 65521, is a prime.
func patterned(_ count: Int) -> [UInt8] {
    let period = (0..<65521).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + period.count)
    while bytes.count < count { bytes += period }
    bytes.removeLast(bytes.count - count)
    return bytes
}
