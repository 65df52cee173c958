import CRing
import CSystem
import Glibc

/// The submission loop: queue operations, then wait once for submissions, completions and the next deadline together.
/// Knows sockets, memory, tokens and time, and nothing of what they are for. Owned by one thread; `waker` may travel.
public final class Loop {
    /// How to talk to the kernel; auto takes epoll where io_uring is forbidden.
    public enum Driver: String, Sendable, CaseIterable { case auto, uring, epoll }

    let ring: OpaquePointer
    private var isClosed = false
    /// The words for a log when `auto` could not have io_uring.
    public let fallbackReason: String?
    public let driverName: String
    private let completions: UnsafeMutablePointer<ring_completion>
    private static let batch = 256
    private var isWaiting = false

    /// Memory that a successor can read when the process has died.
    public struct Keeping {
        public let keep: @convention(c) (UnsafeMutableRawPointer?, Int) -> UnsafeMutableRawPointer?
        public let context: UnsafeMutableRawPointer

        public init(keep: @escaping @convention(c) (UnsafeMutableRawPointer?, Int) -> UnsafeMutableRawPointer?, context: UnsafeMutableRawPointer) {
            (self.keep, self.context) = (keep, context)
        }
    }

    /// A shared receive pool of `poolCount` buffers of `poolByteCount` serves all idle sockets. `keeping`: a successor is told what had ended
    /// when this process died, and no operation begins before `committed`.
    public init(driver: Driver, poolCount: Int = 256, poolByteCount: Int = 4096, keeping: Keeping? = nil) throws(SystemError) {
        var options = ring_options()
        options.driver =
            switch driver {
            case .auto: RING_DRIVER_AUTO
            case .uring: RING_DRIVER_URING
            case .epoll: RING_DRIVER_EPOLL
            }
        options.entries = 512
        options.pool_count = UInt32(poolCount)
        options.pool_bytes = UInt32(poolByteCount)
        var opened: OpaquePointer?
        var why = [CChar](repeating: 0, count: 256)
        let failed =
            if let keeping {
                ring_open_kept(&opened, &options, keeping.keep, keeping.context, &why, why.count)
            } else {
                ring_open(&opened, &options, &why, why.count)
            }
        guard failed == 0, let opened else { throw SystemError(-failed) }
        ring = opened
        let words = String(decoding: why.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        fallbackReason = words.isEmpty ? nil : words
        driverName = ring_driver_in_use(opened) == RING_DRIVER_URING ? "io_uring" : "epoll"
        completions = .allocate(capacity: Loop.batch)
    }

    deinit {
        close()
        completions.deallocate()
    }

    /// Ends every operation: memory that they read or write may go afterwards. Nothing may be queued any more.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        ring_close(ring)
    }

    /// Wakes the loop from any thread.
    public var waker: @Sendable () -> Void {
        let address = UInt(bitPattern: UnsafeRawPointer(ring))
        return { ring_wake(OpaquePointer(bitPattern: address)) }
    }

    // MARK: Operations. Each completes exactly once. False: the operation could not be queued (no memory).

    public func accept(_ listener: Int32, _ token: Token) -> Bool {
        ring_accept(ring, listener, token.rawValue) == 0
    }

    public func connect(_ fd: Int32, _ address: Address, _ token: Token) -> Bool {
        address.withPointer { ring_connect(ring, fd, $0, $1, token.rawValue) } == 0
    }

    /// `memory` stays valid until the completion.
    public func receive(_ fd: Int32, _ memory: UnsafeMutableRawPointer, _ count: Int, _ token: Token) -> Bool {
        ring_receive(ring, fd, memory, count, token.rawValue) == 0
    }

    /// Into a buffer of the pool, picked when bytes are there.
    public func receivePooled(_ fd: Int32, _ token: Token) -> Bool {
        ring_receive_pooled(ring, fd, token.rawValue) == 0
    }

    /// How a send meets a socket that has no room, and how soon its completion is told.
    public enum SendMode {
        /// Waits for room.
        case waiting
        /// Completes with EAGAIN.
        case trying
        /// Waits for room. Nobody waits to hear that all was sent: that completion comes with the next one, or 20 ms later.
        case unhurried
        /// The same, and a successor need not know of it.
        case forgotten
    }

    /// What the iovecs point to stays valid until the completion; the iovecs themselves are copied.
    public func send(_ fd: Int32, _ iovecs: UnsafePointer<iovec>, _ count: Int, _ token: Token, _ mode: SendMode = .waiting) -> Bool {
        let flags =
            switch mode {
            case .waiting: Int32(0)
            case .trying: Int32(SYSTEM_DONTWAIT)
            case .unhurried: Int32(RING_UNHURRIED)
            case .forgotten: Int32(RING_UNHURRIED | RING_FORGOTTEN)
            }
        return ring_send(ring, fd, iovecs, UInt32(count), flags, token.rawValue) == 0
    }

    public func readable(_ fd: Int32, _ token: Token) -> Bool { ring_readable(ring, fd, token.rawValue) == 0 }
    public func writable(_ fd: Int32, _ token: Token) -> Bool { ring_writable(ring, fd, token.rawValue) == 0 }
    public func watchHangup(_ fd: Int32, _ token: Token) -> Bool { ring_watch_hangup(ring, fd, token.rawValue) == 0 }

    /// Every operation on the descriptor completes soon.
    public func cancel(_ fd: Int32) { ring_cancel(ring, fd) }

    /// Where a successor finds what ended, and how far that is committed. For a loop that keeps.
    public var trace: UInt64 { ring_trace_of(ring) }
    public var mark: UInt32 { ring_mark(ring) }

    /// A process that dies in a call leaves it open what the call came to: its successor asks the kernel (`TransferCounts`).
    public var asksForCounts: Bool { trace != 0 && ring_driver_in_use(ring) == RING_DRIVER_EPOLL }

    /// Something waits for the next commit: operations that are to begin, or descriptors that are to be closed.
    public var awaitsCommit: Bool { ring_awaits_commit(ring) || !closing.isEmpty }

    /// All that was handed out is committed, with `mark`.
    public func committed() {
        ring_committed(ring)
        for fd in closing { Socket.close(fd) }
        closing.removeAll(keepingCapacity: true)
    }

    /// Descriptors to be closed when it is committed that nobody names them any more.
    private var closing: [Int32] = []

    /// Closes a descriptor that has no operation in flight. A loop that keeps does so after the next commit: until then a record, or an
    /// accept that has ended, names the descriptor, and nothing else must have its number.
    public func close(_ fd: Int32) {
        ring_forget(ring, fd)
        if trace == 0 { Socket.close(fd) } else { closing.append(fd) }
    }

    /// The descriptor goes on elsewhere. It has no operation in flight.
    public func forget(_ fd: Int32) { ring_forget(ring, fd) }

    public func poolBytes(_ buffer: UInt16) -> UnsafeRawPointer { ring_pool_bytes(ring, buffer) }
    public func returnToPool(_ buffer: UInt16) { ring_pool_return(ring, buffer) }

    /// Waits for completions until `deadline` (nanoseconds on `Clock`; nil: for ever) and passes each to `handle`, which
    /// must not wait itself: completions would overtake each other.
    public func wait(until deadline: UInt64?, _ handle: (Completion) -> Void) throws(SystemError) {
        precondition(!isWaiting, "the loop waits inside a completion")
        isWaiting = true
        defer { isWaiting = false }
        let timeout: Int64
        if let deadline {
            let now = Clock.now()
            timeout = deadline > now ? Int64(clamping: deadline - now) : 0
        } else {
            timeout = -1
        }
        let count = ring_wait(ring, timeout, completions, UInt32(Loop.batch))
        guard count >= 0 else {
            if count == -EINTR { return }
            throw SystemError(-count)
        }
        for index in 0..<Int(count) { handle(Completion(completions[index])) }
    }
}

/// What became of one operation.
public struct Completion {
    public let token: Token
    /// Bytes, the accepted descriptor, poll bits or 0; below zero: -errno.
    public let result: Int32
    /// A pool buffer that must be returned.
    public let buffer: UInt16?

    @usableFromInline
    init(_ raw: ring_completion) {
        token = Token(rawValue: raw.token)
        result = raw.result
        buffer = raw.flags & UInt16(RING_COMPLETION_BUFFER) != 0 ? raw.buffer : nil
    }

    public var error: SystemError? { result < 0 ? SystemError(-result) : nil }
}
