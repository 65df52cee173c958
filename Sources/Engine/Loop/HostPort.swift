/// An address as a person writes it: `:22`, `host:22`, `10.0.0.1:22`, `[::1]:22`. Not yet resolved.
public struct HostPort: Equatable, Hashable, Sendable, CustomStringConvertible {
    /// A name, an IPv4 address or an IPv6 address without brackets. Empty: every interface when listening,
    /// localhost when dialling.
    public var host: String
    /// 0 means a free port, and makes sense for listening only.
    public var port: UInt16

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// What is wrong with a written address, as the rest of a sentence.
    public struct Malformed: Error, Equatable, Sendable {
        public let reason: String
    }

    public init(parsing text: String) throws(Malformed) {
        guard let colon = text.lastIndex(of: ":") else { throw Malformed(reason: "has no port") }
        var host = text[..<colon]
        let digits = text[text.index(after: colon)...]
        guard !digits.isEmpty, digits.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), let port = UInt16(digits) else {
            throw Malformed(reason: "needs a port from 0 to 65535 after its last colon")
        }
        if host.hasPrefix("[") {
            guard host.hasSuffix("]"), host.count > 2 else {
                throw Malformed(reason: "opens a bracket that it does not close")
            }
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw Malformed(reason: "has more than one colon; write an IPv6 address in brackets, as [::1]:22")
        }
        guard host.utf8.count <= 253, host.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != 0x5b && $0 != 0x5d }) else {
            throw Malformed(reason: "is not a host name or an address")
        }
        self.init(host: String(host), port: port)
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
