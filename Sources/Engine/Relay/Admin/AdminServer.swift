import Glibc
import Loop
import Time

/// Status, metrics and commands: HTTP/1.1 on the event loop, one request per connection. A few connections at a time, a
/// deadline for each, and answers that fit in memory.
final class AdminServer {
    unowned(unsafe) let relay: RelayProcess
    private var table = SlotTable<AdminConnection>()
    /// Connections of each kind, oldest first: scrapers of metrics do not keep the owner from commanding.
    private var readers: [AdminConnection] = []
    private var privileged: [AdminConnection] = []

    init(_ relay: RelayProcess) { self.relay = relay }

    func handleAccepted(_ fd: Int32, isPrivileged: Bool) {
        // The oldest without a request is closed: idle connections do not keep others out.
        let others = isPrivileged ? privileged : readers
        if others.count >= Policy.adminConnectionsMaximum {
            guard let idle = others.first(where: { $0.answer == nil && !$0.isClosing }) else { return relay.loop.close(fd) }
            close(idle)
        }
        let connection = table.insert { AdminConnection(fd: fd, index: $0, generation: $1, isPrivileged: isPrivileged) }
        if isPrivileged { privileged.append(connection) } else { readers.append(connection) }
        relay.timers.set(connection.token(.adminDeadline), at: relay.now + Policy.adminTimeout.nanoseconds)
        receive(connection)
    }

    func handle(_ operation: Operation, _ completion: Completion) {
        guard let connection = table.find(completion.token) else { return }
        connection.isInFlight = false
        guard !connection.isClosing, completion.result > 0 else { return close(connection) }
        if operation == .adminReceive {
            connection.filled += Int(completion.result)
            if let (method, path) = connection.line() {
                if connection.isPrivileged, method == "POST", path.hasPrefix("/upgrade") {
                    let program = AdminServer.decoded(path.dropFirst("/upgrade".count))
                    return relay.handover.ask(program: program.isEmpty ? nil : program, asker: giveAway(connection))
                }
                respond(connection, method, path)
            } else if connection.filled == connection.request.count {
                answer(connection, HTTPAnswer(.badRequest, "the request is too long\n"))
            } else {
                receive(connection)
            }
        } else {
            connection.sent += Int(completion.result)
            send(connection)
        }
    }

    /// An answer is being sent.
    var isAnswering: Bool { (readers + privileged).contains { $0.answer != nil && !$0.isClosing } }

    /// The caller owns the descriptor from here on, and sends the answer with `answerAndClose`.
    private func giveAway(_ connection: AdminConnection) -> Int32 {
        privileged.removeAll { $0 === connection }
        relay.timers.cancel(connection.token(.adminDeadline))
        table.remove(connection.index)
        return connection.fd
    }

    /// Sends a short answer without waiting, and closes the connection.
    func answerAndClose(_ fd: Int32, _ answer: HTTPAnswer) {
        answer.bytes.withUnsafeBytes { bytes in
            relay.iovecs[0] = iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
            _ = Socket.send(fd, relay.iovecs, 1)
        }
        relay.loop.close(fd)
    }

    func handleDeadline(_ token: Token) {
        if let connection = table.find(token) { close(connection) }
    }

    private func receive(_ connection: AdminConnection) {
        connection.isInFlight = relay.loop.receive(
            connection.fd, connection.request.baseAddress! + connection.filled,
            connection.request.count - connection.filled, connection.token(.adminReceive))
        if !connection.isInFlight { close(connection) }
    }

    private func answer(_ connection: AdminConnection, _ answer: HTTPAnswer) {
        connection.afterReply = answer.afterReply
        let bytes = answer.bytes
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 8)
        memory.copyBytes(from: bytes)
        connection.answer = memory
        send(connection)
    }

    private func send(_ connection: AdminConnection) {
        guard let answer = connection.answer, connection.sent < answer.count else { return close(connection) }
        relay.iovecs[0] = iovec(iov_base: answer.baseAddress! + connection.sent, iov_len: answer.count - connection.sent)
        connection.isInFlight = relay.loop.send(connection.fd, relay.iovecs, 1, connection.token(.adminSend))
        if !connection.isInFlight { close(connection) }
    }

    private func close(_ connection: AdminConnection) {
        readers.removeAll { $0 === connection }
        privileged.removeAll { $0 === connection }
        guard !connection.isInFlight else {
            if !connection.isClosing { relay.loop.cancel(connection.fd) }
            connection.isClosing = true
            return
        }
        relay.timers.cancel(connection.token(.adminDeadline))
        relay.loop.close(connection.fd)
        table.remove(connection.index)
        connection.afterReply?(relay)
    }

    // MARK: Answers

    private func respond(_ connection: AdminConnection, _ method: String, _ path: String) {
        let make: (LoopReport) -> HTTPAnswer
        switch (method, path) {
        case ("GET", "/metrics"): make = { HTTPAnswer(.fine, Metrics.text($0.status, $0.histograms), type: Metrics.contentType) }
        case ("GET", "/readyz"): make = { $0.unreadiness.map { HTTPAnswer(.unavailable, "\($0)\n") } ?? HTTPAnswer(.fine, "ready\n") }
        case ("GET", "/status") where connection.isPrivileged: make = { HTTPAnswer(.fine, $0.status.json + "\n", type: "application/json") }
        case ("GET", "/healthz"): return answer(connection, HTTPAnswer(.fine, "fine\n"))
        case ("POST", _) where connection.isPrivileged: return answer(connection, command(path))
        case ("GET", _): return answer(connection, HTTPAnswer(.notFound, "there is /metrics, /healthz and /readyz\n"))
        default: return answer(connection, HTTPAnswer(.badRequest, "this takes GET\n"))
        }
        guard let lead = relay.member?.lead else { return answer(connection, make(relay.report)) }
        let token = connection.token(.adminSend)
        lead.ask { [unowned self] report in
            // It may have been closed meanwhile.
            guard let connection = table.find(token), !connection.isClosing, connection.answer == nil else { return }
            answer(connection, make(report))
        }
    }

    /// Percent-decoding (RFC 3986 §2.1).
    private static func decoded(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            let digits = String(decoding: rest.prefix(2), as: UTF8.self)
            if byte == UInt8(ascii: "%"), rest.count >= 2, let value = UInt8(digits, radix: 16) {
                bytes.append(value)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private func command(_ path: String) -> HTTPAnswer {
        switch path {
        case "/drain" where relay.stopping.isRunning:
            HTTPAnswer(.fine, "draining \(relay.words)\n") { $0.request(gently: true) }
        case "/drain": HTTPAnswer(.fine, "already draining \(relay.words)\n")
        case "/stop": HTTPAnswer(.fine, "stopping \(relay.words)\n") { $0.request(gently: false) }
        case "/reload": HTTPAnswer(.fine, "done\n") { $0.reload.run() }
        case "/reconnect":
            relay.client != nil
                ? HTTPAnswer(.fine, "done\n") {
                    $0.client?.reconnect()
                    $0.member?.mail.tellOthers(.reconnect)
                }
                : HTTPAnswer(.conflict, "a server does not dial; ask the client to reconnect\n")
        default: HTTPAnswer(.notFound, "there is /drain, /stop, /reload, /reconnect and /upgrade\n")
        }
    }
}

/// What goes back.
struct HTTPAnswer {
    enum Status: String {
        case fine = "200 OK"
        case badRequest = "400 Bad Request"
        case notFound = "404 Not Found"
        case conflict = "409 Conflict"
        case unavailable = "503 Service Unavailable"
    }

    let bytes: [UInt8]
    /// Run after the answer was sent: a command may end the process.
    let afterReply: ((RelayProcess) -> Void)?

    init(_ status: Status, _ body: String, type: String = "text/plain; charset=utf-8", afterReply: ((RelayProcess) -> Void)? = nil) {
        self.afterReply = afterReply
        let head =
            "HTTP/1.1 \(status.rawValue)\r\nContent-Type: \(type)\r\nContent-Length: \(body.utf8.count)\r\n"
            + "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        bytes = Array(head.utf8) + Array(body.utf8)
    }
}
