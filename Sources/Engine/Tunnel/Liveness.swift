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
    /// From this least round trip on, bytes that come excuse the answer for so many of them.
    static let far = Interval.milliseconds(400)
    static let farRoundTrips: UInt64 = 20
    static let handshakeMaximum = Interval.seconds(60)
    static let doubtMinimum = Interval.milliseconds(200)
    /// Between PINGs while bytes flow (they measure the round trip), while idle for long, and in doubt.
    static let pingActive = Interval.seconds(1)
    static let pingIdle = Interval.seconds(10)
    static let pingInDoubt = Interval.milliseconds(250)

    /// Beyond two round trips: what a peer takes that holds an acknowledgment back for a moment, and is busy.
    static let lateMargin = Interval.milliseconds(30)

    /// The owner has another carrier at hand: it wants to know when an answer is late, long before that is a doubt (protocol.md 8.10).
    var isWatched = false
    /// It was told, or knew why: an answer is late again when this lies as far back.
    private var lateFrom = Instant(nanoseconds: 0)
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
    /// When the peer last answered something, or the carrier was attached.
    private(set) var answeredAt: Instant
    private var pingedAt: Instant
    private var attachedAt: Instant
    private var openPing: UInt64?
    private var wasActive = false
    private var lastToken = UInt64.max
    private(set) var roundTrips = RoundTrips()
    private var inbound: InboundPath
    /// What the last answer took, when it came too late.
    private(set) var lateness = Interval.zero

    init(now: Instant) {
        heardAt = now
        answeredAt = now
        pingedAt = now
        attachedAt = now
        inbound = InboundPath(now: now)
    }

    /// What TCP measured when the carrier connected: the path without our own delays.
    mutating func pathMeasured(_ roundTrip: Interval) { roundTrips.connected(in: roundTrip) }

    /// Bytes of the peer on the current carrier. `isActive`: bytes of the session were among them; an answer to a
    /// PING is no reason for the next one.
    mutating func heard(_ byteCount: Int, isActive: Bool, now: Instant) {
        heardAt = now
        inbound.heard(byteCount)
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
        answeredAt = now
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

    /// Ask at once, unless a question is open. Nothing is doubted.
    mutating func ask() {
        guard openPing == nil, !isSuspected else { return }
        pingedAt = Instant(nanoseconds: 0)
        wasActive = true
    }

    /// The path may have changed: ask at once, and take a short silence for an answer.
    mutating func doubt(now: Instant) {
        guard !isSuspected else { return }
        let patience = max(Liveness.doubtMinimum, roundTrips.usual * 2)
        // One that was asked a moment ago answers this too: events come in storms.
        if openPing == nil || now.since(pingedAt) >= patience {
            pingedAt = Instant(nanoseconds: 0)
            openPing = nil
        }
        wasActive = true
        if doubtedUntil == .never { doubtedUntil = now + patience }
    }

    @inline(__always) private func delay(_ roundTrip: Interval) -> Interval {
        let repeated = Interval(nanoseconds: Liveness.repetitions.nanoseconds + (roundTrip * 5).nanoseconds)
        let usual = min(max(Liveness.suspicionMinimum, repeated), Liveness.suspicionMaximum)
        return max(usual, Interval(nanoseconds: min(roundTrips.handshake, Liveness.handshakeMaximum).nanoseconds / 2 * 3))
    }

    /// Of a satellite's path: while bytes come, its uplink may lose an answer several times in a row, among the acknowledgments that fill it.
    @inline(__always) private var farPatience: Interval { roundTrips.minimum >= Liveness.far ? roundTrips.minimum * Liveness.farRoundTrips : .zero }

    @inline(__always) private var doubtDelay: Interval { delay(roundTrips.usual) }
    @inline(__always) private var suspicionDelay: Interval { delay(max(roundTrips.usual, lateness)) }

    /// When a probe is due.
    @inline(__always) var doubtAt: Instant { isInDoubt || isSuspected ? .never : min(end(of: doubtDelay), dueSince == nil ? .never : doubtedUntil) }
    /// When the carrier is suspected without any probe that was answered.
    @inline(__always) var suspicionAt: Instant { isSuspected ? .never : end(of: suspicionDelay) }

    /// When an answer takes longer than on a path that works.
    @inline(__always) var lateAt: Instant {
        guard isWatched, !isInDoubt, !isSuspected, let dueSince else { return .never }
        #if CANARIES
        if Canary.selected == .neverLate { return .never }
        #endif
        return max(dueSince, heardAt, lateFrom) + roundTrips.usual * 2 + Liveness.lateMargin
    }

    /// True once in such a time.
    mutating func comesLate(now: Instant) -> Bool {
        guard now >= lateAt else { return false }
        lateFrom = now
        return true
    }

    /// When a silence is as long as `suspicionDelay`.
    @inline(__always) private func end(of suspicionDelay: Interval) -> Instant {
        guard let dueSince else { return .never }
        #if CANARIES
        if Canary.selected == .noSuspicion { return .never }
        #endif
        // A trickle does not postpone suspicion, and silence is the smallest trickle.
        var at = max(dueSince, heardSinceDue > 0 ? streamedAt : dueSince) + suspicionDelay
        if heardSinceDue >= Liveness.floodByteCount {
            at = dueSince + max(suspicionDelay, farPatience)
        } else if heardSinceDue >= Liveness.streamByteCount {
            at = min(at, dueSince + max(suspicionDelay, Liveness.suspicionMaximum, farPatience))
        }
        return max(at, patientUntil)
    }

    @inline(__always) private var pingAt: Instant {
        if isSuspected { return pingedAt + Liveness.pingInDoubt }
        if openPing != nil { return .never }
        if wasActive { return pingedAt + Liveness.pingActive }
        // A path that has just come back may go again, and take what only the peer says with it: twice as long each time.
        let age = max(pingedAt, heardAt).since(attachedAt)
        return max(pingedAt, heardAt) + min(max(age, Liveness.pingActive), Liveness.pingIdle)
    }

    @inline(__always) var deadline: Instant { min(doubtAt, suspicionAt, lateAt, pingAt) }

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
        var token = PingClock.token(now: now)
        if token == lastToken { token = PingClock.after(token) }
        lastToken = token
        openPing = token
        pingedAt = now
        wasActive = false
        expectAnswer(now)
        return token
    }

    mutating func heardPing(_ token: UInt64, now: Instant) { inbound.pinged(token, now: now) }

    mutating func takeInboundOutage() -> Interval { inbound.takeOutage() }

    func inboundWait(now: Instant) -> Interval { inbound.wait(roundTrip: roundTrips.minimum, now: now) }

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
        roundTrips.answered(in: excusedRoundTrip.map { min(took, max(roundTrips.usual, $0 * 2)) } ?? took)
        excusedRoundTrip = nil
        answered(isDue: isDue, now: now)
    }

    /// A fresh carrier: nothing is suspected, the round trip is measured anew at once. The answer is due from now on, also
    /// when that PING cannot leave because the greeting is stuck.
    mutating func carrierAttached(now: Instant) {
        isInDoubt = false
        isSuspected = false
        hasAnswered = false
        roundTrips.carrierAttached()
        inbound.carrierAttached(now: now)
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
        pingedAt = Instant(nanoseconds: 0)
    }
}
import Time
