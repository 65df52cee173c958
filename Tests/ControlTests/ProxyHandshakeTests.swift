import Testing

@testable import Control

/// CONNECT of HTTP (RFC 9110, 9.3.6) and SOCKS5 (RFC 1928, RFC 1929), as the client's side of them.
@Suite struct ProxyHandshakeTests {
    typealias Credentials = ProxyHandshake.Credentials

    /// What becomes of an answer, whole and byte by byte: the same.
    private func outcome(_ start: ProxyHandshake, _ answer: [UInt8]) -> [ProxyHandshake.Step] {
        var whole = start, byBytes = start
        let first = whole.take(answer)
        var steps: [ProxyHandshake.Step] = []
        for byte in answer {
            let step = byBytes.take([byte])
            if step != .more { steps.append(step) }
            if case .failed = step { break }
        }
        if case .failed(let failure) = first, case .failed(let other)? = steps.last { #expect(failure.cause == other.cause, "\(failure) and \(other)") }
        return steps
    }

    private func http(_ credentials: Credentials? = nil) -> ProxyHandshake {
        ProxyHandshake(.http, to: .name("host9.example.net"), port: 40300, credentials: credentials)
    }

    private func socks(_ credentials: Credentials? = nil, _ destination: ProxyHandshake.Destination = .name("host9")) -> ProxyHandshake {
        ProxyHandshake(.socks5, to: destination, port: 40300, credentials: credentials)
    }

    private func cause(_ steps: [ProxyHandshake.Step]) -> ProxyHandshake.Failure.Cause? {
        if case .failed(let failure)? = steps.last { failure.cause } else { nil }
    }

    @Test func httpAsksWithNameAndPassword() {
        #expect(String(decoding: http().greeting, as: UTF8.self) == "CONNECT host9.example.net:40300 HTTP/1.1\r\nHost: host9.example.net:40300\r\n\r\n")
        let credentials = Credentials(user: "Aladdin", password: "open sesame")
        // The example of RFC 7617, 2.
        #expect(String(decoding: http(credentials).greeting, as: UTF8.self).contains("Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"))
        let six = ProxyHandshake(.http, to: .ipv6([0x20, 1, 0xd, 0xb8] + [UInt8](repeating: 0, count: 11) + [1]), port: 1, credentials: nil)
        #expect(String(decoding: six.greeting, as: UTF8.self).hasPrefix("CONNECT [2001:db8:0:0:0:0:0:1]:1 HTTP/1.1\r\n"))
    }

    @Test func httpUnderstandsAnswers() {
        #expect(outcome(http(), Array("HTTP/1.1 200 Connection established\r\n\r\n".utf8)) == [.connected])
        #expect(outcome(http(), Array("HTTP/1.0 200 OK\nVia: squid\n\n".utf8)) == [.connected])
        #expect(outcome(http(), Array("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n".utf8)) == [.connected])
        let answers: [(String, ProxyHandshake.Failure.Cause)] = [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n<html>", .denied), ("HTTP/1.1 403 \u{1b}[31mFiltered\r\n\r\n", .denied),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", .unreachable), ("HTTP/1.1 503\r\n\r\n", .unreachable), ("HTTP/1.1 abc\r\n\r\n", .foreign),
            ("SSH-2.0-OpenSSH\r\n", .foreign), ("HTTP/2 200\r\n\r\n", .foreign),
            ("HTTP/1.1 200 OK\r\n\r\nSSH-2.0", .foreign), ("HTTP/1.1 200 " + String(repeating: "x", count: 20_000), .foreign),
        ]
        for (answer, wanted) in answers {
            var whole = http()
            guard case .failed(let failure) = whole.take(Array(answer.utf8)) else {
                Issue.record("\(answer.prefix(40)) was taken")
                continue
            }
            #expect(failure.cause == wanted, "\(answer.prefix(40))")
            #expect(failure.reason.utf8.allSatisfy { (0x20..<0x7f).contains($0) })
        }
    }

    @Test func socksConnectsWithoutPassword() {
        #expect(socks().greeting == [5, 1, 0])
        let request: [UInt8] = [5, 1, 0, 3, 5] + Array("host9".utf8) + [0x9d, 0x6c]
        for bound: [UInt8] in [[1, 127, 0, 0, 1, 0, 80], [3, 2, 0x61, 0x62, 0, 80], [4] + [UInt8](repeating: 0, count: 16) + [0, 80]] {
            #expect(outcome(socks(), [5, 0, 5, 0, 0] + bound) == [.send(request), .connected])
        }
        let numbers = outcome(socks(nil, .ipv4([10, 2, 3, 4])), [5, 0])
        #expect(numbers == [.send([5, 1, 0, 1, 10, 2, 3, 4, 0x9d, 0x6c])])
    }

    @Test func socksLogsIn() {
        let credentials = Credentials(user: "u", password: "pass")
        let login: [UInt8] = [1, 1, 0x75, 4] + Array("pass".utf8)
        #expect(socks(credentials).greeting == [5, 2, 0, 2])
        let steps = outcome(socks(credentials), [5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        #expect(steps.first == .send(login) && steps.last == .connected && steps.count == 3)
        #expect(cause(outcome(socks(credentials), [5, 2, 1, 1])) == .denied)
        #expect(cause(outcome(socks(), [5, 2])) == .denied, "it wants a password, and there is none")
        #expect(cause(outcome(socks(credentials), [5, 255])) == .denied)
    }

    @Test func socksTellsWhyNot() {
        for (code, wanted) in [(1, .unreachable), (2, .denied), (3, .unreachable), (4, .unreachable), (5, .unreachable), (7, .denied), (99, .unreachable)]
            as [(UInt8, ProxyHandshake.Failure.Cause)]
        {
            #expect(cause(outcome(socks(), [5, 0, 5, code])) == wanted, "\(code)")
        }
        for foreign: [UInt8] in [[4], [0x48, 0x54], [5, 0, 4, 0], [5, 0, 5, 0, 0, 9, 0]] { #expect(cause(outcome(socks(), foreign)) == .foreign, "\(foreign)") }
        var early = socks()
        #expect(early.take([5, 0]) == .send([5, 1, 0, 3, 5] + Array("host9".utf8) + [0x9d, 0x6c]))
        #expect(cause([early.take([5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7])]) == .foreign, "the server speaks first")
    }

    @Test func credentialsFitBothProtocols() {
        #expect(Credentials(user: "", password: "p") == nil)
        #expect(Credentials(user: "a:b", password: "p") == nil)
        #expect(Credentials(user: "a", password: "") == nil)
        #expect(Credentials(user: "a", password: String(repeating: "p", count: 256)) == nil)
        #expect(Credentials(user: "a", password: "p:q") != nil)
    }
}
