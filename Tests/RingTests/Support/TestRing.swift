import CRing
import CSeccomp
import Glibc
import Testing

/// The drivers that one suite holds to the same behaviour.
enum Driver: CaseIterable, CustomTestStringConvertible {
    case uring, epoll

    var name: ring_driver { self == .uring ? RING_DRIVER_URING : RING_DRIVER_EPOLL }
    var testDescription: String { self == .uring ? "io_uring" : "epoll" }

    /// io_uring drops out only where the system call itself is refused; where it is allowed, it has to work.
    static let here: [Driver] = uringIsAllowed ? allCases : [.epoll]

    static let uringIsAllowed: Bool = {
        let fd = seccomp_try_uring()
        if fd >= 0 { close(fd) }
        return fd >= 0
    }()
}

/// A ring owned by the thread of one test. Watches that every submission completes once.
final class TestRing {
    let ring: OpaquePointer
    private var expected: Set<UInt64> = []
    private var held: [UInt64: Memory] = [:]  // Until the completion, as the header asks.
    private var isOpen = true

    init(_ driver: Driver, entries: UInt32 = 64, poolCount: UInt32 = 16, poolBytes: UInt32 = 1024) throws {
        _ = Socket.descriptorLimit  // Raised to what the machine allows: tests run beside each other.
        var options = ring_options(
            driver: driver.name, entries: entries, pool_count: poolCount, pool_bytes: poolBytes)
        var opened: OpaquePointer?
        let result = ring_open(&opened, &options, nil, 0)
        ring = try #require(opened, "ring_open: \(result)")
        #expect(result == 0)
        #expect(ring_driver_in_use(ring) == driver.name)
        HangGuard.shared.ringOpened()
    }

    deinit { close() }

    func close() {
        guard isOpen else { return }
        isOpen = false
        ring_close(ring)
        HangGuard.shared.ringClosed()
    }

    // MARK: Operations

    func accept(_ listener: Socket, _ token: UInt64) {
        submitted(ring_accept(ring, listener.fd, token), token)
    }

    func connect(_ socket: Socket, to address: sockaddr_in, _ token: UInt64) {
        var address = address
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                ring_connect(ring, socket.fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size), token)
            }
        }
        submitted(result, token)
    }

    func receive(_ socket: Socket, into memory: Memory, _ token: UInt64) {
        held[token] = memory
        submitted(ring_receive(ring, socket.fd, memory.start, memory.count, token), token)
    }

    func receivePooled(_ socket: Socket, _ token: UInt64) {
        submitted(ring_receive_pooled(ring, socket.fd, token), token)
    }

    func send(_ socket: Socket, _ memory: Memory, flags: Int32 = 0, _ token: UInt64) {
        held[token] = memory
        send(socket, [iovec(iov_base: memory.start, iov_len: memory.count)], flags: flags, token)
    }

    func send(_ socket: Socket, _ iovecs: [iovec], flags: Int32 = 0, _ token: UInt64) {
        submitted(ring_send(ring, socket.fd, iovecs, UInt32(iovecs.count), flags, token), token)
    }

    func readable(_ fd: Int32, _ token: UInt64) { submitted(ring_readable(ring, fd, token), token) }

    func writable(_ fd: Int32, _ token: UInt64) { submitted(ring_writable(ring, fd, token), token) }

    func watchHangup(_ socket: Socket, _ token: UInt64) {
        submitted(ring_watch_hangup(ring, socket.fd, token), token)
    }

    func cancel(_ socket: Socket) { #expect(ring_cancel(ring, socket.fd) == 0) }
    func forget(_ socket: Socket) { ring_forget(ring, socket.fd) }
    var inFlight: Int { ring_in_flight(ring) }

    private func submitted(_ result: Int32, _ token: UInt64) {
        #expect(result == 0)
        #expect(expected.insert(token).inserted, "token \(token) is in flight already")
    }

    // MARK: Completions

    /// One ring_wait. `nanoseconds` below zero: for ever.
    func wait(nanoseconds: Int64, capacity: Int = 64) -> [ring_completion] {
        var completions = [ring_completion](repeating: ring_completion(), count: capacity)
        let count = ring_wait(ring, nanoseconds, &completions, UInt32(capacity))
        #expect(count >= 0, "ring_wait: \(count)")
        completions.removeLast(capacity - Int(max(count, 0)))
        for completion in completions {
            held[completion.token] = nil
            let wasExpected = expected.remove(completion.token) != nil
            #expect(wasExpected, "token \(completion.token) completed unasked or twice")
        }
        return completions
    }

    /// Waits until `count` completions have come, and gives them by token.
    func collect(_ count: Int, within seconds: Int64 = 10) throws -> [UInt64: ring_completion] {
        var found: [UInt64: ring_completion] = [:]
        let deadline = Clock.now + seconds * 1_000_000_000
        while found.count < count {
            let remaining = deadline - Clock.now
            try #require(remaining > 0, "\(found.count) of \(count) came; missing \(expected.prefix(8))")
            for completion in wait(nanoseconds: remaining) { found[completion.token] = completion }
        }
        return found
    }

    /// The result of the one completion that is to come.
    func result(of token: UInt64) throws -> Int32 { try #require(collect(1)[token]).result }

    /// Nothing completes for a while, whatever the wait is woken by.
    func expectQuiet(milliseconds: Int64 = 40) {
        let deadline = Clock.now + milliseconds * 1_000_000
        repeat {
            let completions = wait(nanoseconds: max(0, deadline - Clock.now))
            #expect(completions.isEmpty, "came early: \(completions.map { ($0.token, $0.result) })")
        } while Clock.now < deadline
    }

    /// The bytes of a pooled receive; the buffer goes back.
    func takePooled(_ completion: ring_completion) throws -> [UInt8] {
        try #require(completion.flags == UInt16(RING_COMPLETION_BUFFER), "\(completion)")
        let bytes = try #require(ring_pool_bytes(ring, completion.buffer))
        defer { ring_pool_return(ring, completion.buffer) }
        return [UInt8](UnsafeRawBufferPointer(start: bytes, count: Int(completion.result)))
    }
}

enum Clock {
    /// Monotonic nanoseconds.
    static var now: Int64 { read(CLOCK_MONOTONIC) }

    /// What this thread has used, in nanoseconds.
    static var processor: Int64 { read(CLOCK_THREAD_CPUTIME_ID) }

    private static func read(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
