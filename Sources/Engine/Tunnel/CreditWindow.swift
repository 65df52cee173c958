import State
import Time
import Wire

/// How much of a stream the receiver takes ahead of its user: an absolute limit that moves with consumption, over a
/// window that doubles while the user empties it faster than the path can refill it. (On a far path it grows at once.)
///
/// A window is large enough when half of it lasts two round trips; a user who does not read never gets more.
struct CreditWindow {
    /// What the peer has been told, or at OPEN has assumed.
    private(set) var limit: UInt64
    /// Told with the next credit frame; ≥ `limit`.
    private(set) var target: UInt64
    private(set) var size: UInt64
    /// The window at the last grant: `size`, or what there was room for.
    private var granted: UInt64
    private var grantedAt: Instant

    static let minimum: UInt64 = 64 << 10
    /// A window from here on is told in quarters: the peer has at least three of them at any time.
    static let quarteredFrom: UInt64 = 1 << 20
    /// Both ends must also be scheduled: on a faster path than this, processes and not the path are the delay. Smaller
    /// windows cost more wake-ups (measured on loopback: 1.2 CPU s/GiB with 250 µs, 1.0 with 2 ms).
    static let roundTripMinimum = Interval.milliseconds(2)

    init(initial: UInt64, now: Instant) {
        limit = initial
        target = initial
        size = max(initial, CreditWindow.minimum)
        granted = initial
        grantedAt = now
    }

    /// A grant is about due when the user has taken everything before `consumed`: worth finding out what there is room for. A small
    /// window, as a first one may be, is looked at each time.
    func isDue(_ consumed: UInt64) -> Bool { granted < CreditWindow.minimum || target - consumed <= granted - granted / 4 }

    /// True when the limit has moved far enough to be worth a frame: half a window, a quarter of a large one, or half of a
    /// small first one. `ceiling` ≥ 1: the most that there is room for.
    mutating func consumed(to consumed: UInt64, ceiling: UInt64, roundTrip: Interval, now: Instant) -> Bool {
        let useful = min(size, ceiling)
        let wanted = min(consumed + useful, Specification.offsetMaximum)
        let isQuartered = useful >= CreditWindow.quarteredFrom
        guard wanted > target, wanted - limit >= useful / (isQuartered ? 4 : 2) else { return false }
        // This part of the window was consumed within this many round trips: all of it lasts fewer than four.
        let fast = max(roundTrip, CreditWindow.roundTripMinimum) * (isQuartered ? 1 : 2)
        // On a far path news of credit may be lost several times in a row, each time for a round trip and more, and a sender that has stood
        // still begins again with a small congestion window: there it gets all that there is room for.
        if now.since(grantedAt) < fast { size = max(size, roundTrip >= Liveness.far ? ceiling : min(size * 2, ceiling)) }
        target = max(target, min(consumed + min(size, ceiling), Specification.offsetMaximum))
        granted = target - consumed
        grantedAt = now
        return true
    }

    mutating func tell() -> UInt64 {
        limit = target
        return limit
    }

    mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        try archive.number(&target, in: 0...Specification.offsetMaximum)
        try archive.number(&limit, in: 0...target)
        try archive.number(&size, in: 0...Specification.offsetMaximum)
        try archive.number(&granted, in: 0...Specification.offsetMaximum)
    }
}
