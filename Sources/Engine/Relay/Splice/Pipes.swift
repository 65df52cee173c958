import Loop
import Time

/// The process's pipes, for bytes that are moved without being copied: a frame on its way is in one and, until it is
/// acknowledged, in a second; bytes for a user may wait in one. Those that are empty are used again.
///
/// An unprivileged user may have 64 of this size (`pipe-user-pages-soft`); when the system gives none, bytes are copied.
final class Pipes {
    private var idle: [Pipe] = []
    private var count = 0
    private let sink = Pipe.openSink()
    /// The system refused one: it is not asked again before.
    private var refusedUntil: UInt64 = 0
    /// Pipes at a time, each of two descriptors.
    let maximum: Int

    init(descriptorLimit: Int) { maximum = min(Policy.pipesMaximum, descriptorLimit / Policy.descriptorsPerPipe) }

    /// This many pipes are idle, or may be made.
    func has(_ count: Int) -> Bool { idle.count + maximum - self.count >= count }

    func take(now: UInt64) -> Pipe? {
        if let pipe = idle.popLast() { return pipe }
        guard sink >= 0, count < maximum, now >= refusedUntil else { return nil }
        guard let pipe = Pipe(byteCount: Policy.pipeByteCount) else {
            refusedUntil = now + Policy.pipeRetry.nanoseconds
            return nil
        }
        count += 1
        return pipe
    }

    /// Returns a pipe in which `left` bytes are left.
    func give(_ pipe: Pipe, left: Int) {
        if idle.count < Policy.pipesIdleMaximum, discard(pipe, left) { return idle.append(pipe) }
        pipe.close()
        count -= 1
    }

    /// Forgets the first `count` bytes that lie in it. False: they could not be.
    func discard(_ pipe: Pipe, _ count: Int) -> Bool {
        var left = count
        while left > 0 {
            guard case .success(let moved) = pipe.drain(to: sink, left), moved > 0 else { return false }
            left -= moved
        }
        return true
    }

    /// Closes pipes that are not in use.
    func trim() {
        for pipe in idle { pipe.close() }
        count -= idle.count
        idle = []
    }

    deinit {
        trim()
        if sink >= 0 { Socket.close(sink) }
    }
}
