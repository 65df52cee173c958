import Control
import Glibc
import Loop
import Time

/// Users of listeners at which the program says where it wants to go: from their first byte until the destination is known.
final class ProxyRequests {
    private final class Request {
        let fd: Int32
        let index: UInt32
        let generation: UInt32
        let mapping: Mapping
        /// The mapping's.
        let place: UInt16
        var request: DestinationRequest
        /// While it is sent, and how much of it was.
        let answer = UnsafeMutableRawBufferPointer.allocate(byteCount: Request.answerMaximum, alignment: 8)
        var answerCount = 0
        var sent = 0
        /// What follows the answer.
        var next = Next.readMore
        /// The ring holds an operation.
        var isInFlight = false
        /// The ring had no room for one; a moment later it has.
        var isStalled = false
        var isClosing = false

        enum Next {
            case readMore
            case go(Destination, rest: [UInt8])
            case close
        }

        static let answerMaximum = 256

        init(fd: Int32, index: UInt32, generation: UInt32, mapping: Mapping, place: UInt16, _ request: DestinationRequest) {
            (self.fd, self.index, self.generation, self.mapping, self.place) = (fd, index, generation, mapping, place)
            self.request = request
        }

        deinit { answer.deallocate() }

        func token(_ operation: Operation) -> Token { operation.token(index, generation) }
    }

    unowned(unsafe) private let relay: RelayProcess
    private var table = SlotTable<Request>()
    /// The oldest first.
    private var order: [Request] = []
    /// Receives bytes at once, without the loop.
    private let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: Policy.requestReadByteCount, alignment: 8)

    /// Of listeners that have them, by file.
    private var passwords: [String: Passwords]

    init(_ relay: RelayProcess) throws(StartFault) {
        self.relay = relay
        passwords = try ProxyRequests.passwords(of: relay.configuration.mappings)
    }

    /// Reads the files that the mappings name, under the rules of key files.
    static func passwords(of mappings: [Mapping], acceptsOthers: Bool = false) throws(StartFault) -> [String: Passwords] {
        var passwords: [String: Passwords] = [:]
        for file in Set(mappings.compactMap(\.passwordFile)).sorted() {
            let text = try SecretFile.read(file, "password file", hint: "it has lines USER:PASSWORD", acceptsOthers: acceptsOthers)
            guard let read = Passwords(text) else {
                throw StartFault(.configuration, "the password file \(file) has a line that is not USER:PASSWORD, or none", hint: "1 to 255 bytes each")
            }
            passwords[file] = read
        }
        return passwords
    }

    /// From now on; before the mappings that need them.
    func use(_ passwords: [String: Passwords]) { self.passwords = passwords }

    deinit { scratch.deallocate() }

    var count: Int { table.count }
    /// None is under way.
    var isQuiet: Bool { table.count == 0 }

    /// `fd` is ours from here on. The oldest gives way when there are too many: silent programs keep nobody out.
    func begin(_ fd: Int32, _ mapping: Mapping, _ place: UInt16, _ kind: DestinationRequest.Kind) {
        if order.count >= Policy.requestsMaximum, let oldest = order.first(where: { !$0.isClosing }) { close(oldest) }
        Socket.abortOnClose(fd)
        // While a reload is under way a listener may still name a file that the fresh configuration does not.
        let asked = DestinationRequest(kind, passwords: mapping.passwordFile.map { passwords[$0] ?? .nobody })
        let request = table.insert { Request(fd: fd, index: $0, generation: $1, mapping: mapping, place: place, asked) }
        order.append(request)
        relay.timers.set(request.token(.requestDeadline), at: relay.now + Policy.requestTimeout.nanoseconds)
        awaitBytes(request)
    }

    func handle(_ operation: Operation, _ completion: Completion) {
        guard let request = table.find(completion.token) else { return }
        request.isInFlight = false
        guard !request.isClosing else { return close(request) }
        if operation == .requestReadable { return read(request) }
        guard completion.result > 0 else { return close(request) }
        request.sent += Int(completion.result)
        send(request)
    }

    func handleDeadline(_ token: Token) {
        if let request = table.find(token) { close(request) }
    }

    /// Those whose destination is not known are reset.
    func closeAll() { for request in order { close(request) } }

    private func awaitBytes(_ request: Request) {
        request.isInFlight = relay.loop.readable(request.fd, request.token(.requestReadable))
        if !request.isInFlight { stall(request) }
    }

    private func stall(_ request: Request) {
        request.isStalled = true
        relay.timers.set(Operation.requestsRetry.token(), at: relay.now + Policy.retryDelay.nanoseconds)
    }

    func handleRetry() {
        for request in order where request.isStalled {
            request.isStalled = false
            request.sent < request.answerCount ? send(request) : awaitBytes(request)
        }
    }

    private func read(_ request: Request) {
        switch Socket.receive(request.fd, scratch.baseAddress!, scratch.count) {
        case .success(let count) where count > 0:
            take(request, request.request.take(UnsafeRawBufferPointer(rebasing: scratch[..<count])))
        case .success:
            close(request)
        case .failure(let error):
            error.isPassing ? awaitBytes(request) : close(request)
        }
    }

    private func take(_ request: Request, _ step: DestinationRequest.Step) {
        switch step {
        case .more: awaitBytes(request)
        case .answer(let bytes): answer(request, bytes, then: .readMore)
        case .go(let destination, let bytes, let rest): answer(request, bytes, then: .go(destination, rest: rest))
        case .refuse(let bytes, let reason):
            relay.events.note(.requestRefused(request.mapping, reason: reason))
            // The program shall read why.
            Socket.abortOnClose(request.fd, false)
            answer(request, bytes, then: .close)
        }
    }

    private func answer(_ request: Request, _ bytes: [UInt8], then next: Request.Next) {
        precondition(bytes.count <= Request.answerMaximum, "an answer that is too long")
        request.answer.copyBytes(from: bytes)
        (request.answerCount, request.sent, request.next) = (bytes.count, 0, next)
        send(request)
    }

    private func send(_ request: Request) {
        guard request.sent < request.answerCount else { return proceed(request) }
        relay.iovecs[0] = iovec(iov_base: request.answer.baseAddress! + request.sent, iov_len: request.answerCount - request.sent)
        request.isInFlight = relay.loop.send(request.fd, relay.iovecs, 1, request.token(.requestSend))
        if !request.isInFlight { stall(request) }
    }

    private func proceed(_ request: Request) {
        switch request.next {
        case .readMore: take(request, request.request.take([]))
        case .close: close(request)
        case .go(let destination, let rest):
            guard relay.client?.mayAccept == true else { return close(request) }
            forget(request)
            relay.client?.go(request.fd, to: destination, request.mapping, request.place, rest)
        }
    }

    private func close(_ request: Request) {
        guard !request.isInFlight else {
            if !request.isClosing { relay.loop.cancel(request.fd) }
            request.isClosing = true
            return
        }
        forget(request)
        relay.loop.close(request.fd)
    }

    private func forget(_ request: Request) {
        relay.timers.cancel(request.token(.requestDeadline))
        order.removeAll { $0 === request }
        table.remove(request.index)
    }
}
