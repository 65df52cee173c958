import Glibc
import Synchronization

/// One direction of one stream: a sender at one end, a receiver at the other, both in this process, each on a
/// thread of its own. The receiver compares every byte with what the sender's pattern says.
final class Flow: Sendable {
    enum Outcome: Equatable {
        case running
        /// The sender's last byte and the end after it have arrived.
        case complete
        case wrong(offset: Int, is: UInt8, expected: UInt8)
        /// A clean end in the wrong place.
        case ended(offset: Int, of: Int)
        /// More than was ever sent.
        case invented(offset: Int)
        case broken(offset: Int, call: String, reason: String)
    }

    enum Pace: Sendable {
        /// Bytes a second, in pieces of up to 64 KiB.
        case bulk(Int)
        /// One byte each time this many seconds have passed.
        case keystrokes(Double)
    }

    let name: String
    let pace: Pace
    private let pattern: Pattern
    private let sentCount = Atomic<Int>(0)
    private let receivedCount = Atomic<Int>(0)
    private let stopping = Atomic<Bool>(false)
    /// The sender has sent its last byte.
    private let finished = Atomic<Bool>(false)
    private let state = Mutex<Outcome>(.running)
    /// When each byte was sent and arrived; kept for keystrokes only.
    private let times = Mutex<[(sent: Double, arrived: Double?)]>([])

    init(_ name: String, seed: UInt64, pace: Pace) {
        self.name = name
        self.pace = pace
        pattern = Pattern(seed: seed)
    }

    /// Bytes given to the kernel, or about to be.
    var sent: Int { sentCount.load(ordering: .acquiring) }
    var received: Int { receivedCount.load(ordering: .acquiring) }
    var outcome: Outcome { state.withLock { $0 } }

    /// Asks the sender to end the stream after the piece that it is at.
    func stop() { stopping.store(true, ordering: .releasing) }

    /// When the first byte sent at `start` or later arrived, if that was at `end` or later.
    func firstArrival(sentAfter start: Double, arrivedAfter end: Double) -> Double? {
        times.withLock { times in
            for time in times where time.sent >= start {
                guard let arrived = time.arrived else { return nil }
                if arrived >= end { return arrived }
            }
            return nil
        }
    }

    // MARK: The sender's thread

    func send(to descriptor: Int32) {
        let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 8)
        defer { piece.deallocate() }
        let begin = Clock.now()
        while !stopping.load(ordering: .acquiring) {
            let due = due(at: Clock.now() - begin)
            guard due > 0 else {
                Clock.sleep(0.005)
                continue
            }
            let bytes = UnsafeMutableRawBufferPointer(rebasing: piece[..<min(due, piece.count)])
            guard send(bytes, to: descriptor) else { return }
        }
        finished.store(true, ordering: .releasing)
        shutdown(descriptor, Int32(SHUT_WR))
    }

    /// How many bytes should have been sent by now, and have not. Time lost in an outage is caught up.
    private func due(at elapsed: Double) -> Int {
        switch pace {
        case .bulk(let rate): max(0, Int(elapsed * Double(rate)) - sent)
        case .keystrokes(let interval): sent < Int(elapsed / interval) ? 1 : 0
        }
    }

    private func send(_ bytes: UnsafeMutableRawBufferPointer, to descriptor: Int32) -> Bool {
        let offset = sent
        pattern.fill(bytes, from: offset)
        if case .keystrokes = pace { times.withLock { $0.append((Clock.now(), nil)) } }
        sentCount.store(offset + bytes.count, ordering: .releasing)
        var position = 0
        while position < bytes.count {
            let count = Glibc.send(
                descriptor, bytes.baseAddress! + position, bytes.count - position,
                Int32(MSG_NOSIGNAL))
            if count < 0 {
                if errno == EINTR { continue }
                end(
                    .broken(
                        offset: offset + position, call: "send", reason: OutputFault(number: errno).reason))
                return false
            }
            position += count
        }
        return true
    }

    // MARK: The receiver's thread

    func receive(from descriptor: Int32) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 8)
        let expected = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 8)
        defer {
            buffer.deallocate()
            expected.deallocate()
        }
        while true {
            let count = recv(descriptor, buffer.baseAddress, buffer.count, 0)
            if count < 0 {
                if errno == EINTR { continue }
                return end(
                    .broken(offset: received, call: "receive", reason: OutputFault(number: errno).reason))
            }
            guard count > 0 else {
                let isWhole = finished.load(ordering: .acquiring) && received == sent
                return end(isWhole ? .complete : .ended(offset: received, of: sent))
            }
            let now = Clock.now()
            let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
            if let fault = fault(in: bytes, expected) { return end(fault) }
            if case .keystrokes = pace { note(count, at: now) }
            receivedCount.add(count, ordering: .acquiringAndReleasing)
        }
    }

    private func fault(
        in bytes: UnsafeMutableRawBufferPointer, _ expected: UnsafeMutableRawBufferPointer
    ) -> Outcome? {
        let offset = received
        pattern.fill(UnsafeMutableRawBufferPointer(rebasing: expected[..<bytes.count]), from: offset)
        guard let left = bytes.baseAddress, let right = expected.baseAddress else { return nil }
        if memcmp(left, right, bytes.count) != 0 {
            let first = bytes.indices.first { bytes[$0] != expected[$0] } ?? 0
            return .wrong(offset: offset + first, is: bytes[first], expected: expected[first])
        }
        return offset + bytes.count > sent ? .invented(offset: sent) : nil
    }

    private func note(_ count: Int, at now: Double) {
        let offset = received
        times.withLock { times in
            for index in offset..<min(offset + count, times.count) { times[index].arrived = now }
        }
    }

    /// The first outcome stands: what a broken direction does to the other is a consequence.
    private func end(_ outcome: Outcome) {
        state.withLock { if $0 == .running { $0 = outcome } }
    }
}
