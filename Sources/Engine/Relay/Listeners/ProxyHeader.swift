import Glibc
import Loop

/// The first bytes of a connection, by which an origin learns the user's address: the PROXY protocol, version 2
/// (haproxy.org/download/2.8/doc/proxy-protocol.txt §2.2).
struct ProxyHeader {
    private static let signature: [UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]

    let bytes: [UInt8]

    /// `from`: the user's end of its connection; `to`: the end that it connected to. Where they are no Internet addresses
    /// of one family the header says that there is nothing to tell (LOCAL).
    init(from source: Address?, to destination: Address?) {
        guard let source, let destination, !source.host.isEmpty, source.host.count == destination.host.count else {
            bytes = ProxyHeader.signature + [0x20, 0x00, 0x00, 0x00]
            return
        }
        // Version 2, PROXY; TCP over IPv4 or IPv6.
        let family: UInt8 = source.host.count == 4 ? 0x11 : 0x21
        let body = source.host + destination.host + ProxyHeader.big(source.port) + ProxyHeader.big(destination.port)
        bytes = ProxyHeader.signature + [0x21, family] + ProxyHeader.big(UInt16(body.count)) + body
    }

    private static func big(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xff)] }
}
