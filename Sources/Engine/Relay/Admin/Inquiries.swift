import Glibc
import Loop
import Time

/// Everybody who asks how things are, or says what shall be done: HTTP/1.1 on the loop, one request per connection. It is
/// small talk: a few at a time, a deadline each, and an answer that fits in memory.
final class Inquiries {
    unowned(unsafe) let hub: Hub
    private var table = SlotTable<Inquiry>()
    /// Those of each kind, oldest first: who looks at metrics keeps nobody from commanding.
    private var readers: [Inquiry] = []
    private var commanders: [Inquiry] = []

    init(_ hub: Hub) { self.hub = hub }

    func handleAccepted(_ fd: Int32, mayCommand: Bool) {
        // Who has not asked for longest gives way: idle connections keep nobody out.
        let others = mayCommand ? commanders : readers
        if others.count >= Policy.inquiriesMaximum {
            guard let idle = others.first(where: { $0.answer == nil && !$0.isClosing }) else { return hub.loop.close(fd) }
            close(idle)
        }
        let inquiry = table.insert { Inquiry(fd: fd, index: $0, generation: $1, mayCommand: mayCommand) }
        if mayCommand { commanders.append(inquiry) } else { readers.append(inquiry) }
        hub.timers.set(inquiry.token(.inquiryDeadline), at: hub.now + Policy.inquiryMaximum.nanoseconds)
        receive(inquiry)
    }

    func handle(_ operation: Operation, _ completion: Completion) {
        guard let inquiry = table.find(completion.token) else { return }
        inquiry.isInFlight = false
        guard !inquiry.isClosing, completion.result > 0 else { return close(inquiry) }
        if operation == .inquiryReceive {
            inquiry.filled += Int(completion.result)
            if let (method, path) = inquiry.line() {
                answer(inquiry, respond(method, path, inquiry.mayCommand))
            } else if inquiry.filled == inquiry.request.count {
                answer(inquiry, HTTPAnswer(.badRequest, "the request is too long\n"))
            } else {
                receive(inquiry)
            }
        } else {
            inquiry.sent += Int(completion.result)
            send(inquiry)
        }
    }

    func handleDeadline(_ token: Token) {
        if let inquiry = table.find(token) { close(inquiry) }
    }

    private func receive(_ inquiry: Inquiry) {
        inquiry.isInFlight = hub.loop.receive(inquiry.fd, inquiry.request.baseAddress! + inquiry.filled,
                                              inquiry.request.count - inquiry.filled, inquiry.token(.inquiryReceive))
        if !inquiry.isInFlight { close(inquiry) }
    }

    private func answer(_ inquiry: Inquiry, _ answer: HTTPAnswer) {
        inquiry.order = answer.order
        let bytes = answer.bytes
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 8)
        memory.copyBytes(from: bytes)
        inquiry.answer = memory
        send(inquiry)
    }

    private func send(_ inquiry: Inquiry) {
        guard let answer = inquiry.answer, inquiry.sent < answer.count else { return close(inquiry) }
        hub.iovecs[0] = iovec(iov_base: answer.baseAddress! + inquiry.sent, iov_len: answer.count - inquiry.sent)
        inquiry.isInFlight = hub.loop.send(inquiry.fd, hub.iovecs, 1, inquiry.token(.inquirySend))
        if !inquiry.isInFlight { close(inquiry) }
    }

    private func close(_ inquiry: Inquiry) {
        readers.removeAll { $0 === inquiry }
        commanders.removeAll { $0 === inquiry }
        guard !inquiry.isInFlight else {
            if !inquiry.isClosing { hub.loop.cancel(inquiry.fd) }
            inquiry.isClosing = true
            return
        }
        hub.timers.cancel(inquiry.token(.inquiryDeadline))
        hub.loop.close(inquiry.fd)
        table.remove(inquiry.index)
        inquiry.order?(hub)
    }

    // MARK: Answers

    private func respond(_ method: String, _ path: String, _ mayCommand: Bool) -> HTTPAnswer {
        switch (method, path) {
        case ("GET", "/metrics"): HTTPAnswer(.fine, Metrics.text(hub.status, hub.journal), type: Metrics.contentType)
        case ("GET", "/healthz"): HTTPAnswer(.fine, "fine\n")
        case ("GET", "/readyz"): hub.unreadiness.map { HTTPAnswer(.unavailable, "\($0)\n") } ?? HTTPAnswer(.fine, "ready\n")
        case ("GET", "/status") where mayCommand: HTTPAnswer(.fine, hub.status.json + "\n", type: "application/json")
        case ("POST", _) where mayCommand: command(path)
        case ("GET", _): HTTPAnswer(.notFound, "there is /metrics, /healthz and /readyz\n")
        default: HTTPAnswer(.badRequest, "this takes GET\n")
        }
    }

    private func command(_ path: String) -> HTTPAnswer {
        switch path {
        case "/drain" where hub.stopping.isRunning:
            HTTPAnswer(.fine, "draining \(hub.words)\n") { $0.request(gently: true) }
        case "/drain": HTTPAnswer(.fine, "already draining \(hub.words)\n")
        case "/stop": HTTPAnswer(.fine, "stopping \(hub.words)\n") { $0.request(gently: false) }
        case "/reload": HTTPAnswer(.fine, "done\n") { $0.reload() }
        case "/reconnect":
            hub.host.reconnect() ? HTTPAnswer(.fine, "done\n")
                : HTTPAnswer(.conflict, "a server does not dial; ask the client to reconnect\n")
        default: HTTPAnswer(.notFound, "there is /drain, /stop, /reload and /reconnect\n")
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
    /// What is done when it has been given: an order may end the process.
    let order: ((Hub) -> Void)?

    init(_ status: Status, _ body: String, type: String = "text/plain; charset=utf-8", order: ((Hub) -> Void)? = nil) {
        self.order = order
        let head = "HTTP/1.1 \(status.rawValue)\r\nContent-Type: \(type)\r\nContent-Length: \(body.utf8.count)\r\n"
            + "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        bytes = Array(head.utf8) + Array(body.utf8)
    }
}
