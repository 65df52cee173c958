import Time

/// Which of a client's servers its new users go to, when another one is tried, and which is no longer needed (docs/protocol.md 4.25). Pure:
/// told what is known of each uplink, says what to do.
///
/// A server that is away is waited for; for longer than `failover`, and new users go to the next one. The first of the user's list that
/// works is taken again as soon as it does. What is open on a server stays there.
public struct ServerChoice: Sendable {
    /// What is known of the way to one server.
    public struct Uplink: Equatable, Sendable {
        public var number: UInt32
        /// The place of its server in the user's list: the first is preferred.
        public var rank: Int
        /// Since when no carrier works. Nil: one does.
        public var downSince: Instant?
        /// A carrier has carried its session.
        public var isReached: Bool
        /// A user would lose something with it.
        public var isPrecious: Bool
        /// From when on its server has let its session go. Nil: not as things are, or nobody knows.
        public var forgottenAt: Instant?

        public init(number: UInt32, rank: Int, downSince: Instant?, isReached: Bool, isPrecious: Bool, forgottenAt: Instant? = nil) {
            (self.number, self.rank, self.downSince) = (number, rank, downSince)
            (self.isReached, self.isPrecious, self.forgottenAt) = (isReached, isPrecious, forgottenAt)
        }
    }

    public struct Verdict: Equatable, Sendable {
        /// New users go there.
        public var current: UInt32
        /// Users of these of whom no server has heard go to the current one, too.
        public var abandoned: [UInt32] = []
        /// No server may be expected to answer soon: another one is tried, if there is one.
        public var wantsAnother = false
        /// What is open there is lost: their servers have kept it for as long as they do.
        public var forgotten: [UInt32] = []
        /// Nobody needs them.
        public var unneeded: [UInt32] = []
        /// When to be asked again, if nothing happens before.
        public var nextTimeout = Instant.never
    }

    /// How long a server that has been reached once is waited for.
    public let failover: Interval
    /// And one that has never been.
    public static let firstPatience = Interval.seconds(1)

    /// How often it is asked whether another server than the current one is still needed.
    public static let idlePause = Interval.seconds(1)

    public init(failover: Interval) { self.failover = failover }

    /// `uplinks`: at least one; `current`: the number of one of them.
    public func judge(_ uplinks: [Uplink], current: UInt32, now: Instant) -> Verdict {
        let isExpected = { (uplink: Uplink) in end(uplink).map { now < $0 } ?? true }
        let best = uplinks.filter { $0.downSince == nil || $0.number == current && isExpected($0) }
            .min { ($0.rank, $0.number == current ? 0 : 1, $0.number) < ($1.rank, $1.number == current ? 0 : 1, $1.number) }
        var verdict = Verdict(current: best?.number ?? current)
        for uplink in uplinks {
            if let end = end(uplink), now < end { verdict.nextTimeout = min(verdict.nextTimeout, end) }
            guard uplink.isPrecious, let end = uplink.forgottenAt else { continue }
            if now < end { verdict.nextTimeout = min(verdict.nextTimeout, end) } else { verdict.forgotten.append(uplink.number) }
        }
        guard let best, best.downSince == nil else {
            verdict.wantsAnother = !uplinks.contains(where: isExpected)
            return verdict
        }
        for uplink in uplinks where uplink.number != best.number {
            if !isExpected(uplink) { verdict.abandoned.append(uplink.number) }
            // A better server is waited for, on one uplink.
            let isWaitedFor = uplink.rank < best.rank && !uplinks.contains { $0.rank == uplink.rank && $0.number < uplink.number }
            if uplink.isPrecious {
                // Its users end, or there is room for them on the current one.
                if !isWaitedFor || !isExpected(uplink) { verdict.nextTimeout = min(verdict.nextTimeout, now + Self.idlePause) }
            } else if !isWaitedFor {
                verdict.unneeded.append(uplink.number)
            }
        }
        return verdict
    }

    /// Until when it is waited for. Nil: it works.
    private func end(_ uplink: Uplink) -> Instant? { uplink.downSince.map { $0 + (uplink.isReached ? failover : min(failover, Self.firstPatience)) } }
}
