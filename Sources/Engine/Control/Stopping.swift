import Time
import Tunnel

/// How a tele process ends.
///
///     running ──SIGTERM──▶ draining(until) ──all is delivered, or until──▶ closing(until) ──all is said, or until──▶ stopped
///        └──────────────── SIGINT, or a second SIGTERM ─────────────────────▲
///
/// Draining: nothing new begins, what is open may end, carriers come and go as ever. Saying: each peer is told that its
/// session is over, and what is open is reset.
public struct Stopping {
    public enum State: Equatable, Sendable { case running, draining(until: Instant), closing(until: Instant), stopped }

    public enum Step: Equatable, Sendable { case none, drain, close, stop }

    /// What the state is, without its time.
    public enum Phase: UInt8, Sendable { case running, draining, closing, stopped }
    public var phase: Phase {
        switch state {
        case .running: .running
        case .draining: .draining
        case .closing: .closing
        case .stopped: .stopped
        }
    }

    public private(set) var state = State.running
    private let drainFor: Interval
    /// Time for the last frames to leave. A peer that misses them finds out with its next HELLO.
    public static let closeFor = Interval.milliseconds(300)

    public init(drainFor: Interval) { self.drainFor = drainFor }

    public var isRunning: Bool { state == .running }
    public var isDraining: Bool { if case .draining = state { true } else { false } }
    /// The sessions are over.
    public var isClosing: Bool { if case .closing = state { true } else { false } }
    public var isStopped: Bool { state == .stopped }

    /// `gently`: let open streams end first.
    public mutating func handleRequest(gently: Bool, now: Instant) -> Step {
        switch state {
        case .running where gently && drainFor > .zero:
            state = .draining(until: now + drainFor)
            return .drain
        case .running, .draining:
            state = .closing(until: now + Stopping.closeFor)
            return .close
        case .closing, .stopped:
            return .none
        }
    }

    /// After each turn. `isIdle`: everything was delivered and acknowledged; `closeSent`: the last words have left.
    public mutating func advance(isIdle: Bool, closeSent: Bool, now: Instant) -> Step {
        switch state {
        case .draining(let until) where isIdle || now >= until:
            state = .closing(until: now + Stopping.closeFor)
            return .close
        case .closing(let until) where closeSent || now >= until:
            state = .stopped
            return .stop
        case .running, .draining, .closing, .stopped:
            return .none
        }
    }

    public var nextTimeout: Instant {
        switch state {
        case .draining(let until), .closing(let until): until
        case .running, .stopped: .never
        }
    }
}
