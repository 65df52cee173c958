import Glibc
import Loop
import Testing

@Suite struct SocketTests {
    /// A connect that the kernel gave the port that it leads to is no connection.
    @Test func aConnectThatMeetsItselfWasRefused() throws {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(fd) }
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        try #require(call(&name) { bind(fd, $0, $1) } == 0)
        let own = try #require(Socket.localAddress(fd))
        #expect(Socket.ending(ofConnect: fd, to: own, SystemError(ETIMEDOUT))?.code == ETIMEDOUT)
        name.sin_port = own.port.bigEndian
        try #require(call(&name) { connect(fd, $0, $1) } == 0)
        #expect(Socket.ending(ofConnect: fd, to: own, nil)?.code == ECONNREFUSED)
    }

    private func call(_ name: inout sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
    }
}
