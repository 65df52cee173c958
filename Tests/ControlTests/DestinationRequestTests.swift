import Chance
import Testing
@testable import Control

@Suite struct DestinationRequestTests {
    /// What comes of a conversation, byte by byte: answers, and the last step.
    private func converse(
        _ kind: DestinationRequest.Kind, _ pieces: [[UInt8]], passwords: Passwords? = nil
    ) -> (said: [[UInt8]], last: DestinationRequest.Step) {
        var request = DestinationRequest(kind, passwords: passwords)
        var said: [[UInt8]] = []
        for byte in pieces.joined() {
            var step = request.take([byte])
            while case .answer(let bytes) = step {
                said.append(bytes)
                step = request.take([])
            }
            if step != .more { return (said, step) }
        }
        return (said, .more)
    }

    private let connected: [UInt8] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]

    @Test func socksLeadsToAName() throws {
        let name = Array("DB.example.com".utf8)
        let (said, last) = converse(.socks5, [[5, 2, 2, 0], [5, 1, 0, 3, UInt8(name.count)], name, [0x15, 0x38]])
        #expect(said == [[5, 0]])
        #expect(last == .go(try #require(Destination(host: "db.example.com", port: 5432)), answer: connected, rest: []))
    }

    @Test func socksLeadsToAddresses() throws {
        let four = converse(.socks5, [[5, 1, 0], [5, 1, 0, 1, 10, 2, 0, 1, 0, 80]]).last
        #expect(four == .go(try #require(Destination(host: "10.2.0.1", port: 80)), answer: connected, rest: []))
        let six = converse(.socks5, [[5, 1, 0], [5, 1, 0, 4], Array(repeating: 0, count: 15), [1, 0, 80]]).last
        #expect(six == .go(try #require(Destination(host: "::1", port: 80)), answer: connected, rest: []))
    }

    /// RFC 1929.
    @Test func socksAsksForAPassword() throws {
        let passwords = try #require(Passwords("# users\nann:secret\n\nbob:a:b\n"))
        let command: [UInt8] = [5, 1, 0, 1, 10, 2, 0, 1, 0, 80]
        func login(_ user: String, _ password: String) -> [UInt8] {
            [1, UInt8(user.utf8.count)] + Array(user.utf8) + [UInt8(password.utf8.count)] + Array(password.utf8)
        }
        for (user, password) in [("ann", "secret"), ("bob", "a:b")] {
            let (said, last) = converse(.socks5, [[5, 2, 0, 2], login(user, password), command], passwords: passwords)
            #expect(said == [[5, 2], [1, 0]])
            #expect(last == .go(try #require(Destination(host: "10.2.0.1", port: 80)), answer: connected, rest: []))
        }
        for (user, password) in [("ann", "secre"), ("ann", "secret2"), ("ann", ""), ("", "secret"), ("bob", "secret"), ("#", "users")] {
            let (said, last) = converse(.socks5, [[5, 1, 2], login(user, password), command], passwords: passwords)
            #expect(said == [[5, 2]])
            #expect(last == .refuse(answer: [1, 1], reason: "its user and password are not among those of the file"))
        }
        #expect(converse(.socks5, [[5, 1, 0], command], passwords: passwords).last == .refuse(answer: [5, 0xff], reason: "it gives no user and password"))
    }

    /// RFC 7617.
    @Test(arguments: [
        ("Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n", true), ("proxy-authorization:  basic YW5uOnNlY3JldA==\r\n", true),
        ("", false), ("Proxy-Authorization: Basic YW5uOnNlY3JldA\r\n", false), ("Proxy-Authorization: Basic YW5uOnNlY3JldDI=\r\n", false),
        ("Proxy-Authorization: Digest YW5uOnNlY3JldA==\r\n", false), ("Proxy-Authorization: Basic\r\n", false), ("Proxy-Authorization: Basic ====\r\n", false),
    ]) func httpAsksForAPassword(_ header: String, _ isAdmitted: Bool) throws {
        let passwords = try #require(Passwords("ann:secret"))
        let (_, last) = converse(.httpConnect, [Array("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\(header)\r\n".utf8)], passwords: passwords)
        switch last {
        case .go: #expect(isAdmitted)
        case .refuse(let answer, _):
            #expect(!isAdmitted && String(decoding: answer, as: UTF8.self).hasPrefix("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic"))
        default: throw Unexpected(step: last)
        }
    }

    @Test func withoutAFileNobodyIsAdmitted() {
        let (said, last) = converse(.socks5, [[5, 1, 2], [1, 1, 0x61, 1, 0x62]], passwords: Passwords.nobody)
        #expect(said == [[5, 2]])
        #expect(last == .refuse(answer: [1, 1], reason: "its user and password are not among those of the file"))
    }

    @Test func aPasswordFileHasUsersAndPasswords() {
        for text in ["", "# none", "ann", "ann:", ":secret", "ann:secret\nbob"] { #expect(Passwords(text) == nil, "\(text)") }
    }

    /// All at once, with the first bytes of the user behind it.
    @Test func theUsersOwnBytesAreKept() throws {
        var socks = DestinationRequest(.socks5)
        #expect(socks.take([5, 1, 0, 5, 1, 0, 1, 10, 2, 0, 1, 0, 80, 7, 8, 9]) == .answer([5, 0]))
        #expect(socks.take([]) == .go(try #require(Destination(host: "10.2.0.1", port: 80)), answer: connected, rest: [7, 8, 9]))
        var http = DestinationRequest(.httpConnect)
        let step = http.take(Array("CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: x\r\n\r\nhello".utf8))
        guard case .go(let destination, let answer, let rest) = step else { throw Unexpected(step: step) }
        #expect(destination == Destination(host: "fd00::1", port: 443))
        #expect(String(decoding: answer, as: UTF8.self) == "HTTP/1.1 200 Connection established\r\n\r\n")
        #expect(String(decoding: rest, as: UTF8.self) == "hello")
    }

    private struct Unexpected: Error { let step: DestinationRequest.Step }

    @Test func httpLeadsToAName() throws {
        let (said, last) = converse(.httpConnect, [Array("CONNECT www.example.com:443 HTTP/1.0\r\nUser-Agent: x\r\n\r\n".utf8)])
        #expect(said == [])
        guard case .go(let destination, _, let rest) = last else { throw Unexpected(step: last) }
        #expect(destination == Destination(host: "www.example.com", port: 443))
        #expect(rest == [])
    }

    @Test(
        arguments: [
            ([4, 1, 0, 80], [], "it speaks SOCKS4"), (Array("GET / ".utf8), [], "it speaks HTTP"), ([22, 3, 1], [], "it does not speak SOCKS5"),
            ([5, 1, 2], [5, 0xff], "it offers no access without a password"),
            ([5, 1, 0, 5, 2, 0, 1, 1, 2, 3, 4, 0, 80], [5, 7, 0, 1, 0, 0, 0, 0, 0, 0], "it asks for something other than a connection"),
            ([5, 1, 0, 5, 1, 0, 9, 1], [5, 8, 0, 1, 0, 0, 0, 0, 0, 0], "it asks for an address of an unknown kind"),
            ([5, 1, 0, 5, 1, 0, 3, 5] + Array("127.1".utf8) + [0, 80], [5, 1, 0, 1, 0, 0, 0, 0, 0, 0], "it asks for what is no host and port"),
            ([5, 1, 0, 5, 1, 0, 1, 1, 2, 3, 4, 0, 0], [5, 1, 0, 1, 0, 0, 0, 0, 0, 0], "it asks for what is no host and port"),
            ([5, 1, 0, 4, 1, 0, 1, 1], [5, 1, 0, 1, 0, 0, 0, 0, 0, 0], "it does not speak SOCKS5"),
        ] as [([UInt8], [UInt8], String)])
    func whatSocksCannotDoIsRefused(bytes: [UInt8], answer: [UInt8], reason: String) {
        #expect(converse(.socks5, [bytes]).last == .refuse(answer: answer, reason: reason))
    }

    @Test(arguments: [
        ("GET http://example.com/ HTTP/1.1\r\n\r\n", "405"), ("CONNECT example.com HTTP/1.1\r\n\r\n", "400"), ("CONNECT a:b:80 HTTP/1.1\r\n\r\n", "400"),
        ("CONNECT a:80 HTTP/2\r\n\r\n", "400"), ("CONNECT a:80\r\n\r\n", "400"), ("CONNECT 127.1:80 HTTP/1.1\r\n\r\n", "400"),
        ("CONNECT user@a:80 HTTP/1.1\r\n\r\n", "400"), ("CONNECT a:99999 HTTP/1.1\r\n\r\n", "400"),
        ("CONNECT a:80 HTTP/1.1\r\n" + String(repeating: "x", count: 20_000), "431"),
    ])
    func whatHTTPCannotDoIsRefused(text: String, status: String) throws {
        let step = converse(.httpConnect, [Array(text.utf8)]).last
        guard case .refuse(let answer, _) = step else { throw Unexpected(step: step) }
        #expect(String(decoding: answer, as: UTF8.self).hasPrefix("HTTP/1.1 \(status) "))
    }

    @Test(arguments: ChanceSetting.seeds(2)) func anyBytesAreTaken(seed: UInt64) {
        var chance = Chance(seed: seed)
        for round in 0..<5000 {
            let bytes =
                [5, 1, 0].prefix(round % 4)
                + chance.bytes(chance.within(0...400))
            _ = converse(.socks5, [Array(bytes)])
            _ = converse(.httpConnect, [Array(bytes)])
        }
    }
}
