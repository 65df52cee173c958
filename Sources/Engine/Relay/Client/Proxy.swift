import Control
import Glibc
import Loop

/// A proxy through which a client reaches its server.
public struct Proxy: Equatable, Sendable {
    public enum Kind: Sendable { case http, socks5 }

    public let kind: Kind
    public let address: HostPort
    /// Whose password it is; nil: the first user's in the file.
    public let user: String?
    /// A file with lines `USER:PASSWORD`. Nil: the proxy asks for none.
    public var file: String?

    public init(kind: Kind, address: HostPort, user: String? = nil, file: String? = nil) {
        (self.kind, self.address, self.user, self.file) = (kind, address, user, file)
    }

    /// Reads the file, under the rules of key files.
    func credentials(acceptsOthers: Bool = false) throws(StartFault) -> ProxyHandshake.Credentials? {
        guard let file else { return nil }
        let text = try SecretFile.read(file, "password file", hint: "it has a line USER:PASSWORD", acceptsOthers: acceptsOthers)
        for line in text.split(whereSeparator: \.isNewline) where !line.hasPrefix("#") {
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, let found = ProxyHandshake.Credentials(user: String(parts[0]), password: String(parts[1])) else {
                throw StartFault(.configuration, "the password file \(file) has a line that is not USER:PASSWORD", hint: "1 to 255 bytes each")
            }
            if user == nil || user == found.user { return found }
        }
        throw StartFault(
            .configuration, "the password file \(file) has no line for \(user.map { "the user \($0)" } ?? "any user")", hint: "it has a line USER:PASSWORD")
    }

    /// What to say to it, on a connection for a carrier.
    func handshake(to server: HostPort, _ credentials: ProxyHandshake.Credentials?) -> ProxyHandshake {
        let host = server.host.isEmpty ? "localhost" : server.host
        var (four, six) = ([UInt8](repeating: 0, count: 4), [UInt8](repeating: 0, count: 16))
        let destination: ProxyHandshake.Destination =
            inet_pton(AF_INET, host, &four) == 1 ? .ipv4(four) : inet_pton(AF_INET6, host, &six) == 1 ? .ipv6(six) : .name(host)
        return ProxyHandshake(kind == .http ? .http : .socks5, to: destination, port: server.port, credentials: credentials)
    }
}
