import FoundationEssentials
import Glibc
import Loop
import Relay

/// Asks one running process, over its control socket: a request of HTTP, an answer, the end.
struct ControlClient {
    let path: String
    /// It blocks for so long at most.
    var patienceSeconds = 5
    /// What a refusal means to a person, and what to do.
    var refusal = (sentence: "the process refuses", hint: "\"tele status\" says what it is")

    /// Percent-encoding (RFC 3986 §2.1).
    static func encoded(_ path: String) -> String {
        path.utf8.reduce(into: "") { text, byte in
            let isPlain = UInt8(ascii: "a")...UInt8(ascii: "z") ~= byte | 0x20 || UInt8(ascii: "0")...UInt8(ascii: "9") ~= byte || "/.-_".utf8.contains(byte)
            let digits = String(byte, radix: 16)
            text += isPlain ? String(UnicodeScalar(byte)) : "%" + (digits.count == 1 ? "0" : "") + digits
        }
    }

    func get(_ resource: String) throws(CommandError) -> [UInt8] { try ask("GET", resource) }
    /// What the process says to an order.
    func post(_ resource: String) throws(CommandError) -> String {
        String(decoding: try ask("POST", resource).prefix { $0 != 0x0a }, as: UTF8.self)
    }

    func status() throws(CommandError) -> Status {
        let body = try get("/status")
        do { return try JSONDecoder().decode(Status.self, from: Data(body)) } catch {
            throw CommandError.unavailable("\(path) answers in another form than this tele reads", hint: "is it of another version?")
        }
    }

    /// Why a new connection would wait; nil: it would not.
    func unreadiness() throws(CommandError) -> String? {
        let answer = try exchange("GET", "/readyz")
        return answer.isFine ? nil : words(answer.body)
    }

    private func ask(_ method: String, _ resource: String) throws(CommandError) -> [UInt8] {
        let answer = try exchange(method, resource)
        guard answer.isFine else { throw CommandError.unavailable("\(refusal.sentence) (\(words(answer.body)))", hint: refusal.hint) }
        return answer.body
    }

    private func words(_ body: [UInt8]) -> String { visible(String(decoding: body.prefix { $0 != 0x0a }, as: UTF8.self), limit: 500) }

    private func exchange(_ method: String, _ resource: String) throws(CommandError) -> (isFine: Bool, body: [UInt8]) {
        let fd = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(fd) }
        var limit = timeval(tv_sec: patienceSeconds, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(fd, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let isShort = withUnsafeMutableBytes(of: &address.sun_path) { room in
            guard path.utf8.count < room.count else { return false }
            room.copyBytes(from: path.utf8)
            return true
        }
        let isConnected =
            isShort
            && withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(fd, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0 }
            }
        guard isConnected else {
            throw CommandError.unavailable(
                "cannot reach \(path) (\(isShort ? SystemError.last.description : "too long"))",
                hint: "is that process running, and this user's?")
        }
        let request = Array("\(method) \(resource) HTTP/1.1\r\nHost: tele\r\n\r\n".utf8)
        guard write(fd, request, request.count) == request.count else { throw silence }
        var answer: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = read(fd, &buffer, buffer.count)
            guard count >= 0 else { throw silence }
            if count == 0 { break }
            answer += buffer[..<count]
        }
        let end = answer.indices.first { answer[$0...].starts(with: [0x0d, 0x0a, 0x0d, 0x0a]) }
        guard let end, answer.starts(with: Array("HTTP/1.1 ".utf8)) else { throw silence }
        let body = Array(answer[(end + 4)...])
        // A process that ends may not come to the end of its answer.
        guard String(decoding: answer[..<end], as: UTF8.self).contains("\r\nContent-Length: \(body.count)\r\n") else { throw silence }
        return (answer.dropFirst(9).starts(with: Array("200".utf8)), body)
    }

    private var silence: CommandError { CommandError.unavailable("\(path) does not answer", hint: "is that a tele process, and alive?") }
}
