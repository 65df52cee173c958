/// An address as a person writes it: `:22`, `host:22`, `10.0.0.1:22`, `[::1]:22`, `unix:/run/x`. Not yet resolved.
public struct HostPort: Equatable, Hashable, Sendable, CustomStringConvertible {
    /// A name, an IPv4 address or an IPv6 address without brackets. Empty: every interface when listening,
    /// localhost when dialling.
    public var host: String
    /// 0 means a free port, and makes sense for listening only.
    public var port: UInt16
    /// Of a Unix-domain socket; then there is neither host nor port.
    public var path: String?

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    public init(path: String) {
        self.init(host: "", port: 0)
        self.path = path
    }

    /// What is wrong with a written address, as the rest of a sentence.
    public struct Malformed: Error, Equatable, Sendable {
        public let reason: String
    }

    public init(parsing text: String) throws(Malformed) {
        if text.hasPrefix("unix:") {
            let path = text.dropFirst(5)
            guard path.hasPrefix("/"), !path.utf8.contains(0) else {
                throw Malformed(reason: "needs an absolute path after unix:, as unix:/run/tele.sock")
            }
            guard path.utf8.count <= Address.pathMaximum else {
                throw Malformed(reason: "has a path of more than \(Address.pathMaximum) bytes")
            }
            self.init(path: String(path))
            return
        }
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

    public var description: String {
        if let path { return "unix:\(path)" }
        return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}
