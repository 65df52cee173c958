import Glibc
import Loop
import Time

/// Bytes that wait for one user in pipes, oldest first. Before them may be older ones in memory, and behind them younger. A pipe is
/// taken when it is needed and given back when it is empty.
final class PipeBacklog {
    private var queue: [(pipe: Pipe, byteCount: Int)] = []
    private(set) var byteCount = 0
    /// This many bytes in memory are older. Meaningless while the pipes are empty.
    var olderByteCount = 0
    private let pipes: Pipes
    /// When bytes last came.
    private(set) var filledAt: UInt64 = 0

    init(_ pipes: Pipes) { self.pipes = pipes }

    deinit { clear() }

    enum Filled {
        case moved(Int)
        /// Nothing has arrived.
        case nothing
        /// These bytes go by memory: others wait there, or the pipes are full.
        case busy
        /// There is no pipe, or the system does not splice.
        case notPossible
        case ended
        case failed(SystemError)
    }

    /// Up to `count` bytes of the socket follow.
    func fill(from socket: Int32, _ count: Int, now: UInt64) -> Filled {
        if let last = queue.last {
            let filled = Filled(last.pipe.fill(from: socket, count))
            if case .moved(let moved) = filled { add(moved, now) }
            // Nothing there, or no room in the pipe.
            guard case .nothing = filled, Socket.hasBytes(socket) else { return filled }
        }
        guard queue.count < Policy.pipesOfUserMaximum else { return .busy }
        guard pipes.has(1) else { return .busy }
        guard let pipe = pipes.take(now: now) else { return queue.isEmpty ? .notPossible : .busy }
        let filled = Filled(pipe.fill(from: socket, count))
        guard case .moved(let moved) = filled else {
            pipes.give(pipe, left: 0)
            return filled
        }
        queue.append((pipe, 0))
        add(moved, now)
        return filled
    }

    private func add(_ count: Int, _ now: UInt64) {
        queue[queue.count - 1].byteCount += count
        byteCount += count
        filledAt = now
    }

    /// Copies bytes behind those that wait. How many there was room for.
    func write(_ bytes: UnsafeRawPointer, _ count: Int, now: UInt64) -> Int {
        guard let pipe = queue.last?.pipe ?? pipes.take(now: now) else { return 0 }
        guard case .success(let moved) = pipe.write(bytes, count), moved > 0 else {
            if queue.isEmpty { pipes.give(pipe, left: 0) }
            return 0
        }
        if queue.isEmpty { queue.append((pipe, 0)) }
        add(moved, now)
        return moved
    }

    /// For the ledger.
    func forEach<Failure>(_ body: (Pipe, Int) throws(Failure) -> Void) throws(Failure) {
        for (pipe, byteCount) in queue { try body(pipe, byteCount) }
    }

    var pipeCount: Int { queue.count }

    /// The socket takes what it can of the oldest pipe. `token`: the socket's. Nil: not before the next commit.
    func drain(to socket: Int32, _ token: Token) -> Pipe.Moved? {
        guard let first = queue.first else { return .success(0) }
        let result: Pipe.Moved
        if let log = pipes.log {
            guard log.hasRoom else { return nil }
            result = log.note(.drained, token, first.pipe) { first.pipe.drain(to: socket, first.byteCount) }
        } else {
            result = first.pipe.drain(to: socket, first.byteCount)
        }
        if case .success(let moved) = result {
            queue[0].byteCount -= moved
            byteCount -= moved
            if queue[0].byteCount == 0 { pipes.give(queue.removeFirst().pipe, left: 0) }
        }
        return result
    }

    /// Copies all bytes out: `read` takes some of the first `most` in a pipe, and says how many. False: it took none, and those that it did not
    /// take are lost.
    func copyOut(_ read: (_ source: Pipe, _ most: Int) -> Int) -> Bool {
        defer { clear() }
        while let first = queue.first {
            guard let source = pipes.source(of: first.pipe, first.byteCount) else { return false }
            var left = first.byteCount
            while left > 0 {
                let moved = read(source, left)
                guard moved > 0 else {
                    _ = pipes.discard(source, left)
                    return false
                }
                left -= moved
            }
            byteCount -= first.byteCount
            pipes.giveRead(queue.removeFirst().pipe, first.byteCount)
        }
        return true
    }

    func clear() {
        for (pipe, left) in queue { pipes.give(pipe, left: left) }
        queue = []
        byteCount = 0
    }
}

extension PipeBacklog.Filled {
    init(_ result: Pipe.Moved) {
        self =
            switch result {
            case .success(0): .ended
            case .success(let moved): .moved(moved)
            case .failure(let error):
                switch error.code {
                case EAGAIN: .nothing
                case EINVAL, ENOSYS, EPERM: .notPossible
                default: .failed(error)
                }
            }
    }
}
