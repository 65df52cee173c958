/// Whether the carrier still lives, judged by the answer that is due.
///
/// An answer is due while bytes are unacknowledged or a PING is open: the peer always reads its carrier, so it
/// acknowledges within a round trip and `Endpoint.acknowledgmentDelay`. No answer beyond that is doubt, which costs
/// nothing but a probe: a connect beside the carrier. On an idle carrier a PING makes an answer due.
///
///     fine ──no answer in time──▶ in doubt ──a connect is answered, or the usual patience is over──▶ suspected
///      ▲                              └────────any answer────────┐                                     │
///      └─────────────────────────────────────────────────────────┴──the answer to what was out then────┘
///
/// A connect is a better judge than patience: on a path that is slow the carrier's answer comes before the connect's, which was sent
/// later. So nothing that an outage teaches may delay the connect. A late answer only delays the next suspicion, and only until an
/// answer comes in time.
///
/// Bytes that answer nothing excuse their sender for a while: its acknowledgment may stand behind them. They do not when
/// they are so few that nothing can stand behind them, or so many that the acknowledgment would be among them: then one
/// direction is stuck somewhere (docs/protocol.md §8.2).
///
/// Only the answer ends a suspicion. After an outage the first byte may be what the peer had to send again, while our own
/// bytes wait for a timer of TCP: that carrier works one way, and the probe is faster.
struct Liveness {
    static let suspicionMinimum = Interval.milliseconds(750)
    /// After a short cut TCP sends again twice: 200 ms and a round trip after the first time, and twice that later; then the answer
    /// takes its round trip. Suspicion waits for that.
    static let repetitions = Interval.milliseconds(700)
    static let suspicionMaximum = Interval.seconds(5)
    /// A later answer than this asks for all the patience there is.
    static let slownessMaximum = Interval.milliseconds(1250)
    /// Bytes without an answer: neither as few as this postpone suspicion, nor as many as these.
    static let trickleByteCount = 16 << 10
    static let streamByteCount = 512 << 10
    static let floodByteCount = 8 << 20
    /// Longer than any queue, a satellite's included.
    static let outageMinimum = Interval.seconds(2)
    /// Who sends more in a second has bulk in its socket.
    static let bulkPerSecond = 64 << 10
    static let handshakeMaximum = Interval.seconds(60)
    static let doubtMinimum = Interval.milliseconds(200)
    /// Between PINGs while bytes flow (they measure the round trip), while idle for long, and in doubt.
    static let pingActive = Interval.seconds(1)
    static let pingIdle = Interval.seconds(10)
    static let pingInDoubt = Interval.milliseconds(250)

    private(set) var isInDoubt = false
    private(set) var isSuspected = false
    /// The current carrier has answered something.
    private(set) var hasAnswered = false
    /// The doubt came late: this process did not run, which says nothing of the path.
    private var wasAsleep = false
    /// Since when an answer has been due: the last thing that answered something came before.
    private var dueSince: Instant?
    /// Bytes of the peer since then; when they last were more than a trickle, and how many came behind that.
    private var heardSinceDue = 0
    private var streamedAt = Instant(nanoseconds: 0)
    private var trickled = 0
    private var patientUntil = Instant(nanoseconds: 0)
    /// TCP's round trip when it last explained that the open PING is not answered. Nil: it was not asked.
    private var excusedRoundTrip: Interval?
    private var doubtedUntil = Instant.never
    private var heardAt: Instant
    private var pingedAt: Instant
    private var attachedAt: Instant
    private var openPing: UInt64?
    private var wasActive = false
    private var lastToken = UInt64.max
    /// Smoothed, queues included, of answers that came in time: for patience.
    private(set) var roundTrip = Interval.milliseconds(10)
    /// What the last PONG took, if it came in time.
    private(set) var latest = Interval.milliseconds(10)
    /// What the last answer took, when it came too late.
    private(set) var lateness = Interval.zero
    /// The path without queues: for credit. Follows a longer path slowly.
    private(set) var minimumRoundTrip = Interval.milliseconds(100)
    private var isMeasured = false
    /// What the peer's last PING waited on its way here, beyond the least that any waited.
    private var inboundWait = Interval.zero
    private var least: (delay: UInt64, at: Instant)?
    private var lateSince = Instant.never
    private var inboundOutage = Interval.zero
    private var heardPingAt = Instant(nanoseconds: 0)
    private var heardSincePing = 0
    /// As TCP measured it on this carrier. Only this says that a path is very long: our own samples may hold hours of sleep.
    private var handshakeTook = Interval.zero

    init(now: Instant) {
        heardAt = now
        pingedAt = now
        attachedAt = now
    }

    /// What TCP measured when the carrier connected: the path without our own delays.
    mutating func pathMeasured(_ roundTrip: Interval) {
        minimumRoundTrip = isMeasured ? min(minimumRoundTrip, roundTrip) : roundTrip
        self.roundTrip = max(self.roundTrip, roundTrip)
        latest = roundTrip
        handshakeTook = roundTrip
        isMeasured = true
    }

    /// Bytes of the peer on the current carrier. `isActive`: bytes of the session were among them; an answer to a
    /// PING is no reason for the next one.
    mutating func heard(_ byteCount: Int, isActive: Bool, now: Instant) {
        heardAt = now
        heardSincePing += byteCount
        heardSinceDue += byteCount
        trickled += byteCount
        if trickled >= Liveness.trickleByteCount {
            streamedAt = now
            trickled = 0
        }
        doubtedUntil = .never
        if isActive { wasActive = true }
    }

    /// An acknowledgment moved, or a PONG came. `isDue`: bytes are still unacknowledged.
    /// `isFresh`: it answers all that was out when the carrier became suspected. An older answer may have been on its way before the
    /// path was cut, and come now because the peer sent it again: our own way is not whole for that.
    mutating func answered(isDue: Bool, isFresh: Bool = true, now: Instant) {
        guard !isSuspected || isFresh else { return }
        // Late, and TCP did not know: something in between is slow, perhaps. The next answer may be as late.
        lateness = isInDoubt && !wasAsleep ? min(dueSince.map { now.since($0) } ?? .zero, Liveness.slownessMaximum) : .zero
        isInDoubt = false
        isSuspected = false
        hasAnswered = true
        wasAsleep = false
        dueSince = isDue || openPing != nil ? now : nil
        heardSinceDue = 0
        trickled = 0
    }

    /// Something that must be answered was handed to the carrier.
    mutating func sent(now: Instant) {
        wasActive = true
        expectAnswer(now)
    }

    private mutating func expectAnswer(_ now: Instant) {
        guard dueSince == nil else { return }
        dueSince = now
        heardSinceDue = 0
        trickled = 0
    }

    /// The owner knows that the path is slow rather than dead (TCP's own acknowledgments arrive).
    /// `roundTrip`: as TCP measures it, the path with its queues; an answer that takes much longer waited in the peer.
    mutating func bePatient(until: Instant, roundTrip: Interval) {
        patientUntil = until
        excusedRoundTrip = roundTrip
    }

    /// The path may have changed: ask at once, and take a short silence for an answer.
    mutating func doubt(now: Instant) {
        guard !isSuspected else { return }
        let patience = max(Liveness.doubtMinimum, roundTrip * 2)
        // One that was asked a moment ago answers this too: events come in storms.
        if openPing == nil || now.since(pingedAt) >= patience {
            pingedAt = Instant(nanoseconds: 0)
            openPing = nil
        }
        wasActive = true
        if doubtedUntil == .never { doubtedUntil = now + patience }
    }

    private func delay(_ roundTrip: Interval) -> Interval {
        let repeated = Interval(nanoseconds: Liveness.repetitions.nanoseconds + (roundTrip * 5).nanoseconds)
        let usual = min(max(Liveness.suspicionMinimum, repeated), Liveness.suspicionMaximum)
        return max(usual, Interval(nanoseconds: min(handshakeTook, Liveness.handshakeMaximum).nanoseconds / 2 * 3))
    }

    private var doubtDelay: Interval { delay(roundTrip) }
    private var suspicionDelay: Interval { delay(max(roundTrip, lateness)) }

    /// When a probe is due.
    var doubtAt: Instant { isInDoubt || isSuspected ? .never : min(end(of: doubtDelay), dueSince == nil ? .never : doubtedUntil) }
    /// When the carrier is suspected without any probe that was answered.
    var suspicionAt: Instant { isSuspected ? .never : end(of: suspicionDelay) }

    /// When a silence is as long as `suspicionDelay`.
    private func end(of suspicionDelay: Interval) -> Instant {
        guard let dueSince else { return .never }
        #if CANARIES
        if Canary.selected == .noSuspicion { return .never }
        #endif
        // A trickle does not postpone suspicion, and silence is the smallest trickle.
        var at = max(dueSince, heardSinceDue > 0 ? streamedAt : dueSince) + suspicionDelay
        if heardSinceDue >= Liveness.floodByteCount {
            at = dueSince + suspicionDelay
        } else if heardSinceDue >= Liveness.streamByteCount {
            at = min(at, dueSince + max(suspicionDelay, Liveness.suspicionMaximum))
        }
        return max(at, patientUntil)
    }

    private var pingAt: Instant {
        if isSuspected { return pingedAt + Liveness.pingInDoubt }
        if openPing != nil { return .never }
        if wasActive { return pingedAt + Liveness.pingActive }
        // A path that has just come back may go again, and take what only the peer says with it: twice as long each time.
        let age = max(pingedAt, heardAt).since(attachedAt)
        return max(pingedAt, heardAt) + min(max(age, Liveness.pingActive), Liveness.pingIdle)
    }

    var deadline: Instant { min(doubtAt, suspicionAt, pingAt) }

    /// Nothing comes at all. Only that may TCP explain: bytes that come without the answer show that the path works.
    func isSilent(now: Instant) -> Bool { heardSinceDue == 0 || now.since(heardAt) >= doubtDelay }

    /// Time to ask TCP whether it knows why the peer is silent.
    func isJudgementDue(now: Instant) -> Bool { now >= min(doubtAt, suspicionAt) }

    /// True once per silence, when it is time for a probe.
    mutating func comesInDoubt(now: Instant) -> Bool {
        let at = min(doubtAt, suspicionAt)
        guard !isInDoubt, now >= at else { return false }
        wasAsleep = now.since(at) > Liveness.doubtMinimum
        isInDoubt = true
        return true
    }

    /// True once per silence. Doubt comes first.
    mutating func becomesSuspected(now: Instant) -> Bool {
        guard isInDoubt, now >= suspicionAt else { return false }
        suspect()
        return true
    }

    /// A probe was answered, and the carrier is still silent.
    mutating func suspect() {
        isInDoubt = true
        isSuspected = true
    }

    func owesPing(now: Instant) -> Bool { now >= pingAt }

    mutating func nextPing(now: Instant) -> UInt64 {
        var token = Liveness.clock(now)
        if token == lastToken { token = (token + 1) & Liveness.clockMask }
        lastToken = token
        token |= Liveness.isClock
        openPing = token
        pingedAt = now
        wasActive = false
        expectAnswer(now)
        return token
    }

    private static let isClock: UInt64 = 1 << 29
    private static let clockMask: UInt64 = 1 << 28 - 1

    private static func clock(_ now: Instant) -> UInt64 { now.nanoseconds / 1_000_000 & clockMask }

    /// A PING of the peer, whose token is its clock: how its delay changes shows a queue on the way here, in which acknowledgments of TCP
    /// wait too. Behind bulk it may have waited in the peer's socket, which says nothing of them.
    mutating func heardPing(_ token: UInt64, now: Instant) {
        let isBulk = heardSincePing > Liveness.bulkPerSecond / 1000 * Int(min(now.since(heardPingAt).nanoseconds / 1_000_000, 10_000))
        heardSincePing = 0
        heardPingAt = now
        guard token & Liveness.isClock != 0 else { return }
        let delay = (Liveness.clock(now) &- token) & Liveness.clockMask
        // Two clocks differ by up to 200 ppm more with time.
        let beyond = least.map { (delay &- $0.delay &- now.since($0.at).nanoseconds / 5_000_000_000) & Liveness.clockMask } ?? 0
        // Less than the least is in the other half of the circle. A delay that stays is the peer's clock, which stood still (a paused
        // virtual machine).
        let isLate = beyond >= Liveness.outageMinimum.nanoseconds / 1_000_000 && beyond <= Liveness.clockMask / 2
        if !isLate { lateSince = .never } else if lateSince == .never { lateSince = now }
        let isLeast = least == nil || beyond > Liveness.clockMask / 2 || isLate && now.since(lateSince) > Liveness.pingActive * 3
        if isLeast {
            least = (delay, now)
            lateSince = .never
        }
        // A liar's clock says more than can be: nothing waited longer than there has been a carrier.
        inboundWait = isLeast || isBulk ? .zero : min(.milliseconds(beyond), now.since(attachedAt))
        if inboundWait >= Liveness.outageMinimum { inboundOutage = max(inboundOutage, inboundWait) }
    }

    /// The way here was silent for so long, as the peer's PINGs show that have come since: this side may have had nothing to say, and not
    /// noticed. Each is told once.
    mutating func takeInboundOutage() -> Interval {
        defer { inboundOutage = .zero }
        return inboundOutage
    }

    /// The same, as long as it says something.
    func inboundWait(now: Instant) -> Interval { now.since(heardPingAt) <= Liveness.pingActive * 3 ? inboundWait : .zero }

    /// A PONG with a token that is not open says nothing.
    mutating func receivePong(_ token: UInt64, isDue: Bool, now: Instant) {
        guard token == openPing else { return }
        openPing = nil
        // What came late was held up, or sent again: no round trip.
        if isInDoubt {
            excusedRoundTrip = nil
            return answered(isDue: isDue, now: now)
        }
        // A peer that stood still while its kernel acknowledged everything has measured nothing of the path, either: what a stall teaches
        // must not make the next outage look usual.
        let took = now.since(pingedAt)
        #if CANARIES
        if Canary.selected == .patienceFromStall { excusedRoundTrip = nil }
        #endif
        let sample = excusedRoundTrip.map { min(took, max(roundTrip, $0 * 2)) } ?? took
        excusedRoundTrip = nil
        latest = sample
        // A queue may grow faster than an average follows.
        let average = Interval(nanoseconds: roundTrip.nanoseconds / 8 * 7 + sample.nanoseconds / 8)
        roundTrip = isMeasured ? max(average, Interval(nanoseconds: sample.nanoseconds / 2)) : sample
        minimumRoundTrip = !isMeasured || sample < minimumRoundTrip
            ? sample
            : Interval(nanoseconds: minimumRoundTrip.nanoseconds
                       + (sample.nanoseconds - minimumRoundTrip.nanoseconds) / 16)
        isMeasured = true
        answered(isDue: isDue, now: now)
    }

    /// A fresh carrier: nothing is suspected, the round trip is measured anew at once. The answer is due from now on, also
    /// when that PING cannot leave because the greeting is stuck.
    mutating func carrierAttached(now: Instant) {
        isInDoubt = false
        isSuspected = false
        hasAnswered = false
        inboundWait = .zero
        inboundOutage = .zero
        least = nil
        lateSince = .never
        heardSincePing = 0
        wasAsleep = false
        lateness = .zero
        dueSince = now
        heardSinceDue = 0
        openPing = nil
        heardAt = now
        attachedAt = now
        patientUntil = Instant(nanoseconds: 0)
        excusedRoundTrip = nil
        doubtedUntil = .never
        wasActive = true
        isMeasured = false
        handshakeTook = .zero
        pingedAt = Instant(nanoseconds: 0)
    }
}
import Time
