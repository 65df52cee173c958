import Time
import Tunnel

/// The session that a process worked on when it crashed. Two crashes in a row that begin with the same session, within ten seconds, are that
/// session's doing: it is given up, and no other.
public struct Suspect: Equatable {
    /// The high word of its identity; 0: no session was worked on.
    public private(set) var session: UInt64
    /// When the process died, in nanoseconds on `Clock`.
    public private(set) var diedAt: UInt64
    /// It is to be given up, as soon as a process lives long enough to do so.
    public private(set) var isGivenUp: Bool

    public static let within = Interval.seconds(10)

    public init(session: UInt64 = 0, diedAt: UInt64 = 0, isGivenUp: Bool = false) {
        (self.session, self.diedAt, self.isGivenUp) = (session, diedAt, isGivenUp)
    }

    /// A process died at `diedAt` with this session in its last work. `hasCrashed`: by its own fault. True: the session is to be given up.
    public mutating func blame(_ session: UInt64, diedAt: UInt64, hasCrashed: Bool) -> Bool {
        let isSame = session != 0 && session == self.session
        // A kill says nothing of a session; and one that is given up may be so by the next process only.
        guard hasCrashed else { return isSame && isGivenUp }
        #if CANARIES
        if Canary.selected == .blamesNobody { return false }
        #endif
        let isAgain = isSame && (isGivenUp || diedAt > self.diedAt && diedAt - self.diedAt <= Suspect.within.nanoseconds)
        (self.session, self.diedAt, isGivenUp) = (session, diedAt, isAgain)
        return isAgain
    }
}
