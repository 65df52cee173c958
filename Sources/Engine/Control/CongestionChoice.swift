import Time
import Tunnel

/// Which congestion control a carrier shall have: the system's, or cubic.
///
/// Where `PathWindow` bounds what the kernel holds, nothing is left for congestion control to find, and BBR does harm: bound by
/// somebody else it believes itself idle, stays in its first phase and sends in bursts; and every ten seconds it shuts its window
/// for 200 ms, which is a pause for keystrokes. Cubic only answers to loss, and there is none where the queue is kept short. A path
/// that loses packets by itself is BBR's, since there cubic would starve: that shows in a second under cubic, and is remembered.
public struct CongestionChoice: Sendable {
    public enum Choice: Equatable, Sendable { case system, cubic }

    /// What was lost before cubic came, or in its first moments, says nothing against it.
    static let settling = Interval.seconds(1)
    /// Loss is judged over this many segments, and at least this time.
    static let segmentMinimum: UInt64 = 200
    static let timeMinimum = Interval.milliseconds(250)
    /// From one of so many on a path is lossy: cubic would feel it. It stays so for a while, each time for longer.
    static let lossyFrom: UInt64 = 200
    static let lossyMinimum = Interval.seconds(60)
    static let lossyMaximum = Interval.seconds(1920)
    /// A bound that is gone may be back in a moment.
    static let openFor = Interval.seconds(5)

    private enum State {
        case system(until: Instant)
        case cubic(judgedFrom: Instant)
    }

    private var state = State.system(until: Instant(nanoseconds: 0))
    private var since: (sent: UInt64, repeated: UInt64, at: Instant)?
    private var lossyFor = CongestionChoice.lossyMinimum
    private var boundedAt = Instant(nanoseconds: 0)

    public init() {}

    public var choice: Choice { if case .system = state { .system } else { .cubic } }

    /// `sent` and `repeated`: segments since the connection began, which may wrap.
    public mutating func measured(isBounded: Bool, sent: UInt64, repeated: UInt64, now: Instant) {
        if isBounded { boundedAt = now }
        switch state {
        case .system(let until):
            guard isBounded, now >= until else { return }
            since = nil
            state = .cubic(judgedFrom: now + CongestionChoice.settling)
        case .cubic(let judgedFrom):
            if now.since(boundedAt) >= CongestionChoice.openFor {
                state = .system(until: now)
            } else if now >= judgedFrom, isLossy(sent, repeated, now) {
                state = .system(until: now + lossyFor)
                lossyFor = min(lossyFor * 2, CongestionChoice.lossyMaximum)
            }
        }
    }

    private mutating func isLossy(_ sent: UInt64, _ repeated: UInt64, _ now: Instant) -> Bool {
        guard let from = since, sent >= from.sent, repeated >= from.repeated else {
            since = (sent, repeated, now)
            return false
        }
        guard sent - from.sent >= CongestionChoice.segmentMinimum, now.since(from.at) >= CongestionChoice.timeMinimum else { return false }
        since = (sent, repeated, now)
        return (repeated - from.repeated) * CongestionChoice.lossyFrom >= sent - from.sent
    }
}
