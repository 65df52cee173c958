import Time

/// When a client tries to have a standby on another interface, when the session returns to the preferred one, and how often it may leave a path
/// because an answer is late (docs/protocol.md 4.27, 8.10). Pure: told what happened and when.
public struct StandbyPlan: Sendable {
    /// After a failure another one is tried after this, twice as long after each failure in a row, at most the second.
    static let pause = (least: Interval.seconds(1), most: Interval.seconds(30))
    /// The server refuses standby carriers: it is older than they are, perhaps.
    static let refused = Interval.seconds(600)
    /// The preferred interface is used again when its standby has been ready for this, twice as long for each time that it was left lately, at
    /// most the second, which is also what "lately" means.
    static let comeback = (least: Interval.seconds(10), most: Interval.seconds(600))
    /// So many changes to another path within this are enough: then a path is slow now and then, not dead.
    static let haste = (count: 3, within: Interval.seconds(10))

    /// None is tried before.
    public private(set) var pausedUntil = Instant(nanoseconds: 0)
    private var failuresInRow = 0
    private var readySince = Instant(nanoseconds: 0)
    /// When the preferred path was left lately, and when any path was because an answer was late.
    private var departures: [Instant] = []
    private var hurries: [Instant] = []

    public init() {}

    /// Which of `count` other interfaces is tried: each in turn. `count` ≥ 1.
    public func choice(among count: Int) -> Int { failuresInRow % count }

    /// It could not be made, or was lost.
    public mutating func failed(now: Instant) { pause(now, atLeast: .zero) }

    /// The server does not want it.
    public mutating func wasRefused(now: Instant) { pause(now, atLeast: StandbyPlan.refused) }

    private mutating func pause(_ now: Instant, atLeast least: Interval) {
        let usual = StandbyPlan.pause.least * (1 << UInt64(min(failuresInRow, 10)))
        failuresInRow += 1
        pausedUntil = now + max(min(usual, StandbyPlan.pause.most), least)
    }

    public mutating func becameReady(now: Instant) {
        failuresInRow = 0
        readySince = now
    }

    /// What failed before may work now.
    public mutating func networkChanged() {
        guard failuresInRow > 0 else { return }
        (pausedUntil, failuresInRow) = (Instant(nanoseconds: 0), 0)
    }

    /// The session has left the preferred path.
    public mutating func departed(now: Instant) { departures.append(now) }

    /// When the session may return to the preferred path, whose standby is ready.
    public mutating func returnAt(now: Instant) -> Instant {
        departures.removeAll { now.since($0) > StandbyPlan.comeback.most }
        let doublings = UInt64(min(max(departures.count, 1) - 1, 10))
        return readySince + min(StandbyPlan.comeback.least * (1 << doublings), StandbyPlan.comeback.most)
    }

    /// An answer is late. True: the session may continue over the standby, and does.
    public mutating func mayHurry(now: Instant) -> Bool {
        hurries.removeAll { now.since($0) > StandbyPlan.haste.within }
        guard hurries.count < StandbyPlan.haste.count else { return false }
        hurries.append(now)
        return true
    }
}
