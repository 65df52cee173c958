import Glibc
import Loop

/// The few socket calls that the demo's own ends need, on 127.0.0.1 only. Descriptors belong to the caller.
enum Loopback {
    struct Fault: Error, CustomStringConvertible {
        let call: String
        let number: Int32
        init(_ call: String) { (self.call, number) = (call, errno) }
        var description: String { "\(call) failed (\(SystemError(number)))" }
    }

    /// A listener on a free port.
    static func listen(backlog: Int32) throws(Fault) -> (descriptor: Int32, port: UInt16) {
        let descriptor = try socket()
        var address = self.address(0)
        let bound = withSocketAddress(&address) { bind(descriptor, $0, $1) }
        guard bound == 0, Glibc.listen(descriptor, backlog) == 0 else {
            defer { close(descriptor) }
            throw Fault("listen")
        }
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        _ = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        return (descriptor, UInt16(bigEndian: address.sin_port))
    }

    static func connect(port: UInt16) throws(Fault) -> Int32 {
        let descriptor = try socket()
        var address = self.address(port)
        guard withSocketAddress(&address, { Glibc.connect(descriptor, $0, $1) }) == 0 else {
            defer { close(descriptor) }
            throw Fault("connect")
        }
        setNoDelay(descriptor)
        return descriptor
    }

    /// Begins to connect; whether that ever succeeds does not matter to the caller.
    static func knock(port: UInt16) throws(Fault) -> Int32 {
        let descriptor = try socket()
        setNonBlocking(descriptor)
        var address = self.address(port)
        _ = withSocketAddress(&address) { Glibc.connect(descriptor, $0, $1) }
        return descriptor
    }

    /// The next connection in the queue, or nil; EAGAIN is not told from other reasons.
    static func accept(_ listener: Int32) -> Int32? {
        let descriptor = Glibc.accept(listener, nil, nil)
        guard descriptor >= 0 else { return nil }
        setCloseOnExec(descriptor)
        setNoDelay(descriptor)
        return descriptor
    }

    static func pipe() throws(Fault) -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        guard Glibc.pipe(&ends) == 0 else { throw Fault("pipe") }
        for end in ends { setCloseOnExec(end) }
        return (ends[0], ends[1])
    }

    private static func setCloseOnExec(_ descriptor: Int32) { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }

    static func setNonBlocking(_ descriptor: Int32) {
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    }

    static func setNoDelay(_ descriptor: Int32) {
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Closes with RST instead of FIN.
    static func reset(_ descriptor: Int32) {
        var now = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &now, socklen_t(MemoryLayout<linger>.size))
        close(descriptor)
    }

    private static func socket() throws(Fault) -> Int32 {
        let descriptor = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Fault("socket") }
        return descriptor
    }

    private static func address(_ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return address
    }

    private static func withSocketAddress(
        _ address: inout sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }
}
