import Loop
import Testing

@testable import Relay

@Suite struct ProxyHeaderTests {
    private let signature: [UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]

    private func address(_ text: String) throws -> Address {
        try #require(try Resolver.lookUp(HostPort(parsing: text), passive: false).get().first)
    }

    @Test func ipv4() throws {
        let header = ProxyHeader(from: try address("192.0.2.7:4660"), to: try address("127.0.0.1:22"))
        #expect(header.bytes == signature + [0x21, 0x11, 0, 12, 192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x34, 0, 22])
    }

    @Test func ipv4InsideIPv6IsIPv4() throws {
        let header = ProxyHeader(from: try address("[::ffff:192.0.2.7]:1"), to: try address("127.0.0.1:2"))
        #expect(header.bytes == signature + [0x21, 0x11, 0, 12, 192, 0, 2, 7, 127, 0, 0, 1, 0, 1, 0, 2])
    }

    @Test func ipv6() throws {
        let header = ProxyHeader(from: try address("[2001:db8::1]:1"), to: try address("[::1]:2"))
        #expect(
            header.bytes == signature + [0x21, 0x21, 0, 36, 0x20, 0x01, 0x0d, 0xb8] + Array(repeating: 0, count: 11) + [1]
                + Array(repeating: 0, count: 15) + [1, 0, 1, 0, 2])
    }

    @Test func whereThereIsNothingToTellItSaysSo() throws {
        for (from, to) in [(nil, nil), (Address(path: "/a"), Address(path: "/b")), (try address("127.0.0.1:1"), try address("[::1]:2"))]
            as [(Address?, Address?)]
        {
            #expect(ProxyHeader(from: from, to: to).bytes == signature + [0x20, 0, 0, 0])
        }
    }
}
