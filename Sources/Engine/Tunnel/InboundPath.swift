import Time

/// What the peer's PINGs say of the way here. Their tokens are its clock: how their delay changes shows a queue, in which acknowledgments of
/// TCP wait too, or an outage that this side had no reason to notice (docs/protocol.md 8.3).
struct InboundPath {
    /// Longer than any queue, a satellite's included.
    static let outageMinimum = Interval.seconds(2)
    /// Who sends more in a second has bulk in its socket.
    static let bulkPerSecond = 64 << 10
    /// A delay that stays for so long is the peer's clock, which stood still (a paused virtual machine).
    static let settleTime = Interval.seconds(3)

    /// What the last PING waited, beyond the least that any waited.
    private var wait = Interval.zero
    private var least: (delay: UInt64, at: Instant)?
    /// Since when they have come as late as after an outage. Nil: they have not.
    private var lateSince: Instant?
    private var outage = Interval.zero
    private var pingedAt = Instant(nanoseconds: 0)
    private var heardSincePing = 0
    private var attachedAt: Instant

    init(now: Instant) { attachedAt = now }

    mutating func heard(_ byteCount: Int) { heardSincePing += byteCount }

    /// A PING of the peer. Behind bulk it may have waited in the peer's socket, which says nothing of acknowledgments.
    mutating func pinged(_ token: UInt64, now: Instant) {
        let isBulk = heardSincePing > InboundPath.bulkPerSecond / 1000 * Int(min(now.since(pingedAt).nanoseconds / 1_000_000, 10_000))
        heardSincePing = 0
        pingedAt = now
        guard let delay = PingClock.age(of: token, now: now) else { return }
        // Two clocks differ by up to 200 ppm more with time.
        let beyond = least.map { (delay &- $0.delay &- now.since($0.at).nanoseconds / 5_000_000_000) & PingClock.mask } ?? 0
        // Less than the least is in the other half of the circle.
        let isLate = beyond >= InboundPath.outageMinimum.nanoseconds / 1_000_000 && beyond <= PingClock.mask / 2
        lateSince = isLate ? lateSince ?? now : nil
        let isLeast = least == nil || beyond > PingClock.mask / 2 || lateSince.map { now.since($0) > InboundPath.settleTime } ?? false
        if isLeast {
            least = (delay, now)
            lateSince = nil
        }
        // A liar's clock says more than can be: nothing waited longer than there has been a carrier.
        wait = isLeast || isBulk ? .zero : min(.milliseconds(beyond), now.since(attachedAt))
        if wait >= InboundPath.outageMinimum { outage = max(outage, wait) }
    }

    /// The way here was silent for so long, as the PINGs show that have come since: this side may have had nothing to say, and not
    /// noticed. Each is told once.
    mutating func takeOutage() -> Interval {
        defer { outage = .zero }
        return outage
    }

    /// What acknowledgments wait on their way here, as long as the last PING says something.
    func wait(now: Instant) -> Interval { now.since(pingedAt) <= InboundPath.settleTime ? wait : .zero }

    mutating func carrierAttached(now: Instant) {
        wait = .zero
        outage = .zero
        least = nil
        lateSince = nil
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
