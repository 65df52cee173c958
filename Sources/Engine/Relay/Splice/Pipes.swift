import Loop
import Time
import Tunnel

/// The process's pipes, for bytes that are moved without being copied: a frame on its way is in one and, until it is
/// acknowledged, in a second; bytes for a user may wait in one. Those that are empty are used again.
///
/// An unprivileged user may have 64 of this size (`pipe-user-pages-soft`); when the system gives none, bytes are copied.
///
/// With a ledger, the last commit may say of a pipe what lies in it. So until the next one, a pipe that is given back stays as it is, and
/// whoever copies bytes out of one leaves them in it.
final class Pipes {
    private var idle: [Pipe] = []
    private var count = 0
    private let sink = Pipe.openSink()
    /// The system refused one: it is not asked again before.
    private var refusedUntil: UInt64 = 0
    /// Pipes at a time, each of two descriptors.
    let maximum: Int
    /// Nil: there is no ledger.
    let log: PipeLog?
    /// What bytes are copied out through, so that they stay where they are; a successor needs it as well. With a ledger, there is one before any
    /// other pipe.
    private(set) var scratch: Pipe?
    /// They are given back when it is committed that nobody needs what lies in them.
    private var returned: [(pipe: Pipe, left: Int)] = []

    /// `arena`: where a successor looks. Nil: there is no ledger.
    init(descriptorLimit: Int, keptArena arena: OpaquePointer? = nil) {
        maximum = min(Policy.pipesMaximum, descriptorLimit / Policy.descriptorsPerPipe)
        log = arena.flatMap { PipeLog($0) }
        keeps = arena != nil
    }

    private let keeps: Bool

    /// This many pipes are idle, or may be made.
    func has(_ count: Int) -> Bool { idle.count + maximum - self.count >= count }

    func take(now: UInt64) -> Pipe? {
        if let pipe = idle.popLast() { return pipe }
        guard sink >= 0, count < maximum, now >= refusedUntil, !keeps || log != nil else { return nil }
        if let log, scratch == nil {
            scratch = open(now)
            guard let scratch else { return nil }
            log.name(scratch: scratch)
        }
        return open(now)
    }

    private func open(_ now: UInt64) -> Pipe? {
        guard let pipe = Pipe(byteCount: Policy.pipeByteCount) else {
            refusedUntil = now + Policy.pipeRetry.nanoseconds
            return nil
        }
        count += 1
        return pipe
    }

    /// Returns a pipe in which `left` bytes are left.
    func give(_ pipe: Pipe, left: Int) {
        #if CANARIES
        if Canary.selected == .reusesPipes { return put(pipe, left: left) }
        #endif
        if keeps { returned.append((pipe, left)) } else { put(pipe, left: left) }
    }

    /// Pipes that were given back, or calls that were noted, wait for the next commit.
    var awaitsCommit: Bool { !returned.isEmpty || log?.hasNew ?? false }

    /// What waited for the commit is done.
    func committed() {
        for (pipe, left) in returned { put(pipe, left: left) }
        returned.removeAll(keepingCapacity: true)
        log?.committed()
    }

    /// A pipe out of which all of the `count` bytes that lie in `pipe` are to be read, before another one is asked for. Nil: it cannot be had.
    func source(of pipe: Pipe, _ count: Int) -> Pipe? {
        guard keeps else { return pipe }
        guard let scratch else { return nil }
        switch pipe.copy(to: scratch, count) {
        case .success(count): return scratch
        case .success(let some):
            _ = discard(scratch, some)
            return nil
        case .failure: return nil
        }
    }

    /// Returns a pipe whose `count` bytes were read out of its source.
    func giveRead(_ pipe: Pipe, _ count: Int) { give(pipe, left: keeps ? count : 0) }

    private func put(_ pipe: Pipe, left: Int) {
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
        for (pipe, _) in returned { pipe.close() }
        scratch?.close()
        trim()
        if sink >= 0 { Socket.close(sink) }
    }
}
