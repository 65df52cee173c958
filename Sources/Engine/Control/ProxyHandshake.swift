/// How a client asks a proxy for a connection to the tele server: CONNECT of HTTP/1.1 (RFC 9110, 9.3.6) or SOCKS5 (RFC 1928), with a
/// user name and password where there are some (RFC 7617, RFC 1929). The name is sent as it is: the proxy resolves it. Pure: told what
/// the proxy sent, says what to send.
public struct ProxyHandshake: Sendable {
    public enum Kind: Sendable { case http, socks5 }

    public struct Credentials: Equatable, Sendable {
        public let user: String
        public let password: String

        /// SOCKS5 has room for 255 bytes of each. Nil: one is empty or too long, or the user's name has a colon, which Basic cannot say.
        public init?(user: String, password: String) {
            guard (1...255).contains(user.utf8.count), (1...255).contains(password.utf8.count), !user.utf8.contains(0x3a) else { return nil }
            self.user = user
            self.password = password
        }
    }

    /// Where the connection shall lead.
    public enum Destination: Equatable, Sendable {
        case name(String)
        case ipv4([UInt8])
        case ipv6([UInt8])
    }

    public enum Step: Equatable, Sendable {
        /// These bytes go to the proxy.
        case send([UInt8])
        case more
        /// From now on the other side is the tele server.
        case connected
        case failed(Failure)
    }

    public struct Failure: Error, Equatable, Sendable {
        public enum Cause: Sendable {
            /// The proxy cannot reach the server now.
            case unreachable
            /// It rejects this client, or this destination.
            case denied
            /// It does not speak this protocol.
            case foreign
        }
        public let cause: Cause
        /// A sentence without its subject's name: "the proxy …".
        public let reason: String
    }

    private enum Stage { case head, method, login, reply, over }

    /// A longer head of an HTTP answer is refused.
    public static let headMaximum = 16 << 10

    private let kind: Kind
    private let destination: Destination
    private let port: UInt16
    private let credentials: Credentials?
    private var stage: Stage
    private var received: [UInt8] = []

    public init(_ kind: Kind, to destination: Destination, port: UInt16, credentials: Credentials?) {
        (self.kind, self.destination, self.port, self.credentials) = (kind, destination, port, credentials)
        stage = kind == .http ? .head : .method
    }

    /// The first bytes for the proxy.
    public var greeting: [UInt8] {
        switch kind {
        case .http:
            let login = credentials.map { "Proxy-Authorization: Basic \(Base64.encoded(Array("\($0.user):\($0.password)".utf8)))\r\n" } ?? ""
            return Array("CONNECT \(authority) HTTP/1.1\r\nHost: \(authority)\r\n\(login)\r\n".utf8)
        case .socks5:
            return credentials == nil ? [5, 1, 0] : [5, 2, 0, 2]
        }
    }

    /// All bytes are taken.
    public mutating func take(_ bytes: some Sequence<UInt8>) -> Step {
        received += bytes
        while true {
            switch step() {
            case .more where received.count > Self.headMaximum: return fail(.foreign, "the proxy's answer does not end")
            case nil: continue
            case let step?: return step
            }
        }
    }

    /// Nil: go on with what is left.
    private mutating func step() -> Step? {
        switch stage {
        case .head: readHead()
        case .method: readMethod()
        case .login: readLogin()
        case .reply: readReply()
        case .over: fail(.foreign, "the proxy has said more than its answer")
        }
    }

    private mutating func fail(_ cause: Failure.Cause, _ reason: String) -> Step {
        stage = .over
        return .failed(Failure(cause: cause, reason: reason))
    }

    /// A tele server says nothing before it is spoken to.
    private mutating func finish(_ count: Int) -> Step {
        guard received.count == count else { return fail(.foreign, "the other side of the proxy speaks before it is asked") }
        received = []
        stage = .over
        return .connected
    }

    // MARK: HTTP

    private var authority: String {
        switch destination {
        case .name(let name): "\(name):\(port)"
        case .ipv4(let bytes): "\(bytes.map { "\($0)" }.joined(separator: ".")):\(port)"
        case .ipv6(let bytes): "[\(Self.groups(bytes))]:\(port)"
        }
    }

    private static func groups(_ bytes: [UInt8]) -> String {
        stride(from: 0, to: 16, by: 2).map { String(UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]), radix: 16) }.joined(separator: ":")
    }

    private mutating func readHead() -> Step {
        let start = Array("HTTP/1.".utf8)
        guard received.starts(with: start.prefix(received.count)) else { return fail(.foreign, "the proxy does not speak HTTP") }
        guard let end = Self.endOfHead(received) else { return .more }
        let line = String(decoding: received.prefix { $0 != 0x0d && $0 != 0x0a }, as: UTF8.self)
        let words = line.split(separator: " ", maxSplits: 2)
        guard words.count >= 2, let status = Int(words[1]), (100...599).contains(status) else { return fail(.foreign, "the proxy does not speak HTTP") }
        guard status >= 200 else {  // An interim answer.
            received.removeFirst(end)
            return received.isEmpty ? .more : readHead()
        }
        let said = "\(status)" + (words.count > 2 ? " " + Self.printable(words[2]) : "")
        switch status {
        case 200..<300: return finish(end)
        case 401, 407:
            return fail(
                .denied, credentials == nil ? "the proxy requires a user name and password (\(said))" : "the proxy rejects the user name or password (\(said))")
        case 400..<500: return fail(.denied, "the proxy does not allow a connection to \(authority) (\(said))")
        default: return fail(.unreachable, "the proxy cannot reach \(authority) (\(said))")
        }
    }

    /// Behind the empty line. Lines may end without a carriage return (RFC 9112, 2.2).
    private static func endOfHead(_ bytes: [UInt8]) -> Int? {
        var lineIsEmpty = false
        for (index, byte) in bytes.enumerated() {
            if byte == 0x0a {
                if lineIsEmpty { return index + 1 }
                lineIsEmpty = true
            } else if byte != 0x0d {
                lineIsEmpty = false
            }
        }
        return nil
    }

    /// A stranger's words, made harmless for a log.
    private static func printable(_ text: Substring) -> String {
        String(text.prefix(80).unicodeScalars.map { (0x20..<0x7f).contains($0.value) ? Character($0) : "?" })
    }

    // MARK: SOCKS5

    private mutating func readMethod() -> Step {
        guard received.count >= 2 else { return received.first ?? 5 == 5 ? .more : fail(.foreign, "the proxy does not speak SOCKS5") }
        guard received[0] == 5 else { return fail(.foreign, "the proxy does not speak SOCKS5") }
        let method = received[1]
        received.removeFirst(2)
        switch (method, credentials) {
        case (0, _):
            stage = .reply
            return .send(request)
        case (2, let credentials?):
            stage = .login
            return .send(
                [1, UInt8(credentials.user.utf8.count)] + credentials.user.utf8 + [UInt8(credentials.password.utf8.count)] + credentials.password.utf8)
        default:
            return fail(.denied, credentials == nil ? "the proxy requires a user name and password" : "the proxy does not accept a user name and password")
        }
    }

    private mutating func readLogin() -> Step {
        guard received.count >= 2 else { return .more }
        guard received[1] == 0 else { return fail(.denied, "the proxy rejects the user name or password") }
        received.removeFirst(2)
        stage = .reply
        return .send(request)
    }

    private var request: [UInt8] {
        let address: [UInt8] =
            switch destination {
            case .name(let name): [3, UInt8(truncatingIfNeeded: name.utf8.count)] + name.utf8
            case .ipv4(let bytes): [1] + bytes
            case .ipv6(let bytes): [4] + bytes
            }
        return [5, 1, 0] + address + [UInt8(port >> 8), UInt8(port & 0xff)]
    }

    private mutating func readReply() -> Step {
        guard received.count >= 2 else { return .more }
        guard received[0] == 5 else { return fail(.foreign, "the proxy does not speak SOCKS5") }
        guard received[1] == 0 else { return refused(received[1]) }
        guard received.count >= 5 else { return .more }
        let length: Int
        switch received[3] {
        case 1: length = 4
        case 3: length = 1 + Int(received[4])
        case 4: length = 16
        default: return fail(.foreign, "the proxy does not speak SOCKS5")
        }
        return received.count < 6 + length ? .more : finish(6 + length)
    }

    private mutating func refused(_ code: UInt8) -> Step {
        let (cause, words): (Failure.Cause, String) =
            switch code {
            case 2: (.denied, "the proxy does not allow a connection to \(authority)")
            case 3: (.unreachable, "the proxy cannot reach \(authority) (network unreachable)")
            case 4: (.unreachable, "the proxy cannot reach \(authority) (host unreachable)")
            case 5: (.unreachable, "the proxy cannot reach \(authority) (connection refused)")
            case 6: (.unreachable, "the proxy cannot reach \(authority) (time to live expired)")
            case 7, 8: (.denied, "the proxy does not support connections to \(authority)")
            default: (.unreachable, "the proxy cannot reach \(authority) (SOCKS error \(code))")
            }
        return fail(cause, words)
    }
}
