/// Whether the carrier still lives, judged by silence where an answer is due.
///
/// An answer is due while bytes are unacknowledged or a PING is open: the peer always reads its carrier, so it
/// acknowledges within a round trip and `Endpoint.acknowledgmentDelay`. Silence beyond that is suspicion, which costs
/// nothing but a probe. On an idle carrier a PING makes an answer due.
struct Liveness {
    static let suspicionMinimum = Interval.milliseconds(750)
    static let suspicionMaximum = Interval.seconds(5)
    static let doubtMinimum = Interval.milliseconds(200)
    /// Between PINGs while bytes flow (they measure the round trip), while idle, and in doubt.
    static let pingActive = Interval.seconds(1)
    static let pingIdle = Interval.seconds(10)
    static let pingInDoubt = Interval.milliseconds(250)

    private(set) var isSuspected = false
    /// Since when an answer has been due without any byte from the peer.
    private var dueSince: Instant?
    private var patientUntil = Instant(nanoseconds: 0)
    private var doubtedUntil = Instant.never
    private var heardAt: Instant
    private var pingedAt: Instant
    private var openPing: UInt64?
    private var wasActive = false
    private var nextToken: UInt64 = 1
    /// Smoothed, queues included: for patience.
    private(set) var roundTrip = Interval.milliseconds(100)
    /// The path without queues: for credit. Follows a longer path slowly.
    private(set) var minimumRoundTrip = Interval.milliseconds(100)
    private var isMeasured = false

    init(now: Instant) {
        heardAt = now
        pingedAt = now
    }

    /// What TCP measured when the carrier connected: the path without our own delays.
    mutating func pathMeasured(_ roundTrip: Interval) {
        minimumRoundTrip = isMeasured ? min(minimumRoundTrip, roundTrip) : roundTrip
        self.roundTrip = max(self.roundTrip, roundTrip)
        isMeasured = true
    }

    /// Any byte of the peer on the current carrier. `isActive`: bytes of the session were among them; an answer to a
    /// PING is no reason for the next one.
    mutating func heard(isDue: Bool, isActive: Bool, now: Instant) {
        heardAt = now
        if isSuspected, let dueSince {
            // It was slow, not dead, and TCP did not know: something in between is. The next silence may be as long.
            roundTrip = max(roundTrip, now.since(dueSince))
        }
        isSuspected = false
        doubtedUntil = .never
        dueSince = isDue || openPing != nil ? now : nil
        if isActive { wasActive = true }
    }

    /// Something that must be answered was handed to the carrier.
    mutating func sent(now: Instant) {
        wasActive = true
        if dueSince == nil { dueSince = now }
    }

    /// The owner knows that the path is slow rather than dead (TCP's own acknowledgments arrive).
    mutating func bePatient(until: Instant) { patientUntil = until }

    /// The path may have changed: ask at once, and take a short silence for an answer.
    mutating func doubt(now: Instant) {
        guard !isSuspected else { return }
        pingedAt = Instant(nanoseconds: 0)
        openPing = nil
        wasActive = true
        doubtedUntil = now + max(Liveness.doubtMinimum, roundTrip * 2)
    }

    private var suspicionDelay: Interval {
        min(max(Liveness.suspicionMinimum, roundTrip * 4), Liveness.suspicionMaximum)
    }

    var suspicionAt: Instant {
        guard let dueSince, !isSuspected else { return .never }
        #if CANARIES
        if Canary.selected == .noSuspicion { return .never }
        #endif
        return min(max(dueSince + suspicionDelay, patientUntil), doubtedUntil)
    }

    private var pingAt: Instant {
        if isSuspected { return pingedAt + Liveness.pingInDoubt }
        if openPing != nil { return .never }
        return wasActive ? pingedAt + Liveness.pingActive : max(pingedAt, heardAt) + Liveness.pingIdle
    }

    var deadline: Instant { min(suspicionAt, pingAt) }

    /// Time to ask TCP whether it knows why the peer is silent.
    func isSuspicionDue(now: Instant) -> Bool { now >= suspicionAt }

    /// True once per silence.
    mutating func becomesSuspected(now: Instant) -> Bool {
        guard now >= suspicionAt else { return false }
        isSuspected = true
        return true
    }

    func owesPing(now: Instant) -> Bool { now >= pingAt }

    mutating func nextPing(now: Instant) -> UInt64 {
        let token = nextToken
        nextToken = (nextToken + 1) & 0x3fff_ffff
        openPing = token
        pingedAt = now
        wasActive = false
        if dueSince == nil { dueSince = now }
        return token
    }

    /// A PONG with a token that is not open says nothing.
    mutating func receivePong(_ token: UInt64, isDue: Bool, now: Instant) {
        guard token == openPing else { return }
        openPing = nil
        let sample = now.since(pingedAt)
        roundTrip = isMeasured
            ? Interval(nanoseconds: roundTrip.nanoseconds / 8 * 7 + sample.nanoseconds / 8) : sample
        minimumRoundTrip = !isMeasured || sample < minimumRoundTrip
            ? sample
            : Interval(nanoseconds: minimumRoundTrip.nanoseconds
                       + (sample.nanoseconds - minimumRoundTrip.nanoseconds) / 16)
        isMeasured = true
        if !isDue { dueSince = nil }
    }

    /// A fresh carrier: nothing is due, nothing is suspected; the round trip is measured anew at once.
    mutating func carrierAttached(now: Instant) {
        isSuspected = false
        dueSince = nil
        openPing = nil
        heardAt = now
        patientUntil = Instant(nanoseconds: 0)
        doubtedUntil = .never
        wasActive = true
        isMeasured = false
        pingedAt = Instant(nanoseconds: 0)
    }
}
