/// How a user's program says where it wants to go: SOCKS5 (RFC 1928, CONNECT) or CONNECT of HTTP/1.1 (RFC 9110 §9.3.6), where passwords are
/// wanted with one (RFC 1929, RFC 7617).
/// It is told at once that it is connected, so that its first bytes travel behind the request: what cannot be reached is reset later.
/// Pure: told what the program sent, says what to answer.
public struct DestinationRequest: Sendable {
    public enum Kind: String, Sendable, CaseIterable {
        case socks5
        case httpConnect = "http-connect"
    }

    public enum Step: Equatable, Sendable {
        case more
        case answer([UInt8])
        /// After the answer come the user's own bytes; some are here already.
        case go(Destination, answer: [UInt8], rest: [UInt8])
        /// After the answer the connection is over.
        case refuse(answer: [UInt8], reason: String)
    }

    private enum Stage { case method, password, command, head, over }

    /// A longer head of an HTTP request is refused.
    public static let headMaximum = 16 << 10

    /// Nil: nobody is asked for one.
    private let passwords: Passwords?
    private var stage: Stage
    private var received: [UInt8] = []
    /// Of these, bytes in which the end of a head was looked for.
    private var searched = 0

    public init(_ kind: Kind, passwords: Passwords? = nil) {
        self.passwords = passwords
        stage = kind == .socks5 ? .method : .head
    }

    /// All bytes are taken. Ask again, with none, after an answer.
    public mutating func take(_ bytes: some Sequence<UInt8>) -> Step {
        received += bytes
        switch stage {
        case .method: return takeMethods()
        case .password: return takePassword()
        case .command: return takeCommand()
        case .head: return takeHead()
        case .over: return .more
        }
    }

    // MARK: SOCKS5

    private mutating func takeMethods() -> Step {
        guard let version = received.first else { return .more }
        guard version == 5 else {
            let isHTTP = (0x41...0x5a).contains(version)
            return refuse([], version == 4 ? "it speaks SOCKS4" : isHTTP ? "it speaks HTTP" : "it does not speak SOCKS5")
        }
        guard received.count >= 2, received.count >= 2 + Int(received[1]) else { return .more }
        let methods = received[2..<2 + Int(received[1])]
        received.removeFirst(2 + Int(received[1]))
        guard passwords == nil else {
            guard methods.contains(2) else { return refuse([5, 0xff], "it gives no user and password") }
            stage = .password
            return .answer([5, 2])
        }
        guard methods.contains(0) else { return refuse([5, 0xff], "it offers no access without a password") }
        stage = .command
        return .answer([5, 0])
    }

    /// RFC 1929.
    private mutating func takePassword() -> Step {
        guard received.count >= 2 else { return .more }
        let user = Int(received[1])
        guard received.count >= 3 + user, received.count >= 3 + user + Int(received[2 + user]) else { return .more }
        let password = Int(received[2 + user])
        let login = received[2..<2 + user] + [UInt8(ascii: ":")] + received[(3 + user)..<(3 + user + password)]
        guard received[0] == 1, let passwords, passwords.admit(Array(login)) else { return refuse([1, 1], Self.wrongPassword) }
        received.removeFirst(3 + user + password)
        stage = .command
        return .answer([1, 0])
    }

    private static let wrongPassword = "its user and password are not among those of the file"

    private mutating func takeCommand() -> Step {
        guard received.count >= 5 else { return .more }
        guard received[0] == 5, received[2] == 0 else { return refuse(Self.reply(1), "it does not speak SOCKS5") }
        let length: Int
        switch received[3] {
        case 1: length = 4
        case 3: length = 1 + Int(received[4])
        case 4: length = 16
        default: return refuse(Self.reply(8), "it asks for an address of an unknown kind")
        }
        guard received.count >= 4 + length + 2 else { return .more }
        guard received[1] == 1 else { return refuse(Self.reply(7), "it asks for something other than a connection") }
        let place = received[4..<4 + length]
        let port = UInt16(received[4 + length]) << 8 | UInt16(received[4 + length + 1])
        let destination: Destination? =
            received[3] == 3
            ? String(validating: place.dropFirst(), as: UTF8.self).flatMap { Destination(host: $0, port: port) }
            : Destination(address: Array(place), port: port)
        guard let destination else { return refuse(Self.reply(1), "it asks for what is no host and port") }
        stage = .over
        return .go(destination, answer: Self.reply(0), rest: Array(received[(4 + length + 2)...]))
    }

    /// The address is not told: the connection begins on the server's host.
    private static func reply(_ code: UInt8) -> [UInt8] { [5, code, 0, 1, 0, 0, 0, 0, 0, 0] }

    // MARK: HTTP

    private mutating func takeHead() -> Step {
        let from = max(0, searched - 3)
        searched = received.count
        guard let end = received.indices[from...].first(where: { received[$0...].starts(with: [0x0d, 0x0a, 0x0d, 0x0a]) }) else {
            guard received.count <= Self.headMaximum else { return refuse(Self.status("431 Request Header Fields Too Large"), "its request is too long") }
            if let first = received.first, !(0x41...0x5a).contains(first) { return refuse([], "it does not speak HTTP") }
            return .more
        }
        let line = String(decoding: received.prefix { $0 != 0x0d }, as: UTF8.self)
        let words = line.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[2].hasPrefix("HTTP/1.") else { return refuse(Self.status("400 Bad Request"), "it does not speak HTTP/1") }
        if let passwords {
            let login = Self.login(received[..<end])
            guard let login, passwords.admit(login) else {
                let reason = login == nil ? "it gives no user and password" : Self.wrongPassword
                return refuse(Self.status("407 Proxy Authentication Required", "Proxy-Authenticate: Basic realm=\"tele\"\r\n"), reason)
            }
        }
        guard words[0] == "CONNECT" else { return refuse(Self.status("405 Method Not Allowed"), "it asks for something other than CONNECT") }
        guard let colon = words[1].lastIndex(of: ":"), let port = UInt16(words[1][words[1].index(after: colon)...]),
            let destination = Destination(host: words[1][..<colon], port: port)
        else { return refuse(Self.status("400 Bad Request"), "it asks for what is no host and port") }
        stage = .over
        return .go(destination, answer: Array("HTTP/1.1 200 Connection established\r\n\r\n".utf8), rest: Array(received[(end + 4)...]))
    }

    /// What `Proxy-Authorization: Basic …` says.
    private static func login(_ head: ArraySlice<UInt8>) -> [UInt8]? {
        for line in head.split(separator: 0x0a).dropFirst() {
            let parts = String(decoding: line.filter { $0 != 0x0d }, as: UTF8.self).split(separator: ":", maxSplits: 1)
            guard parts.count == 2, parts[0].lowercased() == "proxy-authorization" else { continue }
            let words = parts[1].split(separator: " ")
            guard words.count == 2, words[0].lowercased() == "basic" else { return nil }
            return Base64.decoded(words[1])
        }
        return nil
    }

    private static func status(_ words: String, _ more: String = "") -> [UInt8] {
        Array("HTTP/1.1 \(words)\r\n\(more)Content-Length: 0\r\nConnection: close\r\n\r\n".utf8)
    }

    private mutating func refuse(_ answer: [UInt8], _ reason: String) -> Step {
        stage = .over
        return .refuse(answer: answer, reason: reason)
    }
}
