import Time

/// What the peer's PINGs tell of the path from the peer. A token is the peer's clock, so changes of the delay show a queue, in which TCP's
/// acknowledgments wait too, or an outage that this side had no reason to notice (docs/protocol.md 8.3).
struct InboundPath {
    /// A longer delay than any queue causes, also over a satellite.
    static let outageMinimum = Interval.seconds(2)
    /// Bytes a second. A peer that sends more has bulk in its socket, in front of its PINGs.
    static let bulkPerSecond = 64 << 10
    /// A delay that lasts this long, and is the same for all PINGs, is a clock that stood still (a paused virtual machine), not a queue.
    static let settleTime = Interval.seconds(3)

    /// Milliseconds by which the delay of PINGs differs where nothing is wrong.
    static let jitter: UInt64 = 200
    /// On a far path a PING tells of the queue for so many round trips.
    static let roundTripsToTell: UInt64 = 20

    /// How long the last PING was delayed, beyond the least delay of any.
    private var wait = Interval.zero
    /// The longest of those that came lately.
    private var longest = (wait: Interval.zero, at: Instant(nanoseconds: 0))
    private var least: (delay: UInt64, at: Instant)?
    /// What was the least before a clock seemed to have stood still. Nil: none did.
    private var former: (delay: UInt64, at: Instant)?
    /// Since when PINGs have been as late as after an outage, and equally late: by so many milliseconds. Nil: they are not.
    private var late: (since: Instant, by: UInt64)?
    private var outage = Interval.zero
    private var pingedAt = Instant(nanoseconds: 0)
    private var heardSincePing = 0
    private var attachedAt: Instant

    init(now: Instant) { attachedAt = now }

    mutating func heard(_ byteCount: Int) { heardSincePing += byteCount }

    /// A PING of the peer. Behind bulk it may have waited in the peer's socket, where acknowledgments do not wait.
    mutating func pinged(_ token: UInt64, now: Instant) {
        let isBulk = heardSincePing > InboundPath.bulkPerSecond / 1000 * Int(min(now.since(pingedAt).nanoseconds / 1_000_000, 10_000))
        heardSincePing = 0
        pingedAt = now
        guard let delay = PingClock.age(of: token, now: now) else { return }
        var beyond = beyondLeast(delay, now)
        // Much earlier again: it was a queue that lost PINGs, or their repetitions, and no clock.
        if former != nil, beyond > PingClock.mask / 2, beyond < PingClock.mask - InboundPath.jitter {
            least = former
            former = nil
            beyond = beyondLeast(delay, now)
        }
        let isLate = beyond >= InboundPath.outageMinimum.nanoseconds / 1_000_000 && beyond <= PingClock.mask / 2
        late = isLate ? equallyLate(beyond, now) : nil
        let stoodStill = late.map { now.since($0.since) > InboundPath.settleTime } ?? false
        let isLeast = least == nil || beyond > PingClock.mask / 2 || stoodStill
        if isLeast {
            if stoodStill { former = least }
            least = (delay, now)
            late = nil
        }
        // A peer may lie: no PING was delayed for longer than the carrier has existed.
        wait = isLeast || isBulk ? .zero : min(.milliseconds(beyond), now.since(attachedAt))
        let isOld = now.since(longest.at) > Liveness.far * InboundPath.roundTripsToTell
        if wait >= longest.wait || isOld { longest = (wait, now) }
        if wait >= InboundPath.outageMinimum { outage = max(outage, wait) }
    }

    /// Repetitions of what was lost come late by differing times.
    private func equallyLate(_ beyond: UInt64, _ now: Instant) -> (since: Instant, by: UInt64) {
        guard let late, max(late.by, beyond) - min(late.by, beyond) <= max(InboundPath.jitter, late.by / 16) else { return (now, beyond) }
        return late
    }

    /// Milliseconds, modulo the clock. A smaller delay than the least wraps around to the upper half of the range.
    private func beyondLeast(_ delay: UInt64, _ now: Instant) -> UInt64 {
        // Two clocks differ by up to 200 ppm more with time.
        least.map { (delay &- $0.delay &- now.since($0.at).nanoseconds / 5_000_000_000) & PingClock.mask } ?? 0
    }

    /// The length of an outage of the path from the peer, which this side may not have noticed because it had nothing to send. Each outage is
    /// returned once; zero: none.
    mutating func takeOutage() -> Interval {
        defer { outage = .zero }
        return outage
    }

    /// How long acknowledgments are delayed now, or on a far path lately: the queue that delays PINGs there loses them too, so they come
    /// seldom, and one of them may have been lucky. Where the last PING is too old to tell: zero, or on a far path, where that happens
    /// because PINGs are lost, unbounded (`unknown`). `roundTrip`: the least.
    func wait(roundTrip: Interval, now: Instant) -> Interval {
        guard roundTrip >= Liveness.far else { return now.since(pingedAt) <= InboundPath.settleTime ? wait : .zero }
        return now.since(longest.at) <= roundTrip * InboundPath.roundTripsToTell ? longest.wait : InboundPath.unknown
    }

    /// Longer than any round trip.
    static let unknown = Interval.seconds(3600)

    mutating func carrierAttached(now: Instant) {
        wait = .zero
        longest = (.zero, now)
        outage = .zero
        least = nil
        former = nil
        late = nil
        heardSincePing = 0
        attachedAt = now
    }
}

/// A PING's token: its sender's clock in milliseconds, modulo 2^28, with bit 29 set (docs/protocol.md 8.3).
enum PingClock {
    static let mask: UInt64 = 1 << 28 - 1
    private static let mark: UInt64 = 1 << 29

    static func token(now: Instant) -> UInt64 { reading(now) | mark }

    /// The next token that is not this one: two in a millisecond differ.
    static func after(_ token: UInt64) -> UInt64 { (token + 1) & mask | mark }

    /// Our clock minus the sender's, modulo 2^28. Nil: the token is no clock.
    static func age(of token: UInt64, now: Instant) -> UInt64? { token & mark == 0 ? nil : (reading(now) &- token) & mask }

    private static func reading(_ now: Instant) -> UInt64 { now.nanoseconds / 1_000_000 & mask }
}
