import Time
import Wire

/// One end of a session, without sockets, clock, chance or payload bytes: it is told what happened, and asked what to
/// do next. The owner keeps the bytes; here they are counts and offsets.
///
/// The sequence of the session's bytes towards the peer (docs/protocol.md §5):
///
///     0 ──── acknowledged ──── cursor ──── handed ──── sent
///            │ retained: may be replayed              │
///
/// `handed` is the highest offset that a carrier was ever given, `cursor` where the current one stands. (An
/// acknowledgment may overtake the completion of the send that it answers: then `acknowledged` passes `cursor`.)
///
/// `nextFrame` gives a frame its place at `sent`; the owner appends header and payload to its store of retained bytes.
/// `nextBatch` says which of them to hand to the carrier. `receive` reads what the carrier brought.
public struct Endpoint: ~Copyable {
    public enum Role: Sendable { case client, server }

    public struct Limits: Sendable {
        /// Bytes that may be sent and not acknowledged.
        public var retained: Int
        /// Payload bytes that may have arrived and not been consumed.
        public var received: Int
        /// Streams open at a time.
        public var streams: Int

        public init(retained: Int, received: Int, streams: Int) {
            self.retained = retained
            self.received = received
            self.streams = streams
        }
    }

    /// An acknowledgment waits this long for company, and on a long path for an eighth of its round trip: the way back may be so narrow
    /// that acknowledgments fill it.
    public static let acknowledgmentDelay = Interval.milliseconds(20)
    static let acknowledgmentDelayMaximum = Interval.milliseconds(100)
    var acknowledgmentDelay: Interval {
        let part = Interval(nanoseconds: liveness.roundTrips.minimum.nanoseconds / 8)
        return min(max(Endpoint.acknowledgmentDelay, part), Endpoint.acknowledgmentDelayMaximum)
    }
    /// Received bytes that make an acknowledgment due at once. Credit frames come more often and carry one along.
    static let acknowledgmentThreshold: UInt64 = 512 << 10
    /// Bytes of control frames that may be retained besides those of DATA frames, so that full buffers never hold back a reset or
    /// credit, and a peer that acknowledges nothing costs no more.
    static let controlReserve = 128 << 10
    /// Distance of the frame borders that are remembered.
    static let borderDistance: UInt64 = 4 << 10
    /// A peer that has less left of the session's limit is told at once when it moves.
    static let nearLimit = 4 << 10
    /// Refused streams whose RESETs are owed, beyond `streamSlack`; fewer where fewer streams may be open.
    static let refusalsMaximum = 32 << 10
    /// What each stream may have on its way however little room there is, at OPEN and later: the session's limit covers it besides
    /// the receive budget.
    public static let creditFloor: UInt64 = 1 << 10
    /// A share that needs no room in sockets besides.
    static let ampleShare: UInt64 = 8 << 20
    /// The buffers of a connection hold no more than this for a user who reads nothing: Linux gives it 4 MiB to send, and more than
    /// 128 KiB to receive only to those who read.
    static let buffered: UInt64 = 4 << 20
    /// Up to this many streams share the receive budget as equals, whatever they have shown.
    static let fewStreams = 2

    public let role: Role
    public var limits: Limits

    var table: StreamTable
    var scheduler = Scheduler()
    var borders = BorderQueue()
    /// Streams that the peer opened and that were refused: their RESETs are owed.
    var refusals: Refusals

    // Our bytes.
    public internal(set) var acknowledged: UInt64 = 0
    public internal(set) var cursor: UInt64 = 0
    public internal(set) var sent: UInt64 = 0
    var handed: UInt64 = 0
    /// `handed` when the carrier became suspected.
    var handedWhenSuspected: UInt64 = 0
    var dataSent: UInt64 = 0
    /// Bytes of all DATA frames, headers included.
    var dataFramed: UInt64 = 0
    /// Unused credit of all streams: the part of its limit that the peer has reserved for them.
    var peerPromised: UInt64 = 0
    /// RESETs of own streams: their pace, and the ends of those that are not acknowledged.
    var resetBucket = TokenBucket(burst: ResetPace.burst, perSecond: ResetPace.perSecond)
    var resetsInFlight = BorderQueue()
    /// When the bucket lets the next one go; `never`: nothing waits for the bucket.
    var resetAt = Instant.never
    var peerDataLimit: UInt64 = 0
    var peerInitialCredit: UInt64 = 0
    var peerMaximumStreams: UInt64 = 0
    var nextOwnID: UInt64
    var controlBytes = ControlBytes()

    // The peer's bytes.
    public internal(set) var received: UInt64 = 0
    /// `received` when the last arrival had been read.
    var heardReceived: UInt64 = 0
    /// Bytes read since the last `heard`.
    var arrivedByteCount = 0
    var delivered = Reading.betweenFrames
    var reception = Reception(position: 0, reading: .betweenFrames)
    var dataReceived: UInt64 = 0
    var dataConsumed: UInt64 = 0
    /// Sums over all streams: what the peer was granted and no user has taken, and how much of that may have to wait in memory.
    var outstanding: UInt64 = 0
    var reserved: UInt64 = 0
    /// When the receive budget was last used up by a quarter, and `dataConsumed` then.
    var usedAt = Instant(nanoseconds: 0)
    var usedMark: UInt64 = 0
    var isShortOfBudget = false
    /// How often the peer may reset streams that it opened.
    var peerResets: TokenBucket
    /// What the peer may send: the largest limit that it may know, also from a HELLO that perhaps never arrived.
    var announcedDataLimit: UInt64 = 0
    /// The limit in the last acknowledgment: what it does know once that arrives.
    var toldDataLimit: UInt64 = 0
    var nextPeerID: UInt64

    // State of this moment, told with the next batch.
    var acknowledgedToPeer: UInt64 = 0
    /// While a HELLO is out, acknowledgments on the old carrier stop at the offset it named: the server must still be
    /// able to replay from there.
    var acknowledgmentCeiling = UInt64.max
    var acknowledgmentDue = Instant.never
    var owedPong: UInt64?
    var owedClose: (code: CloseCode, reason: StaticString)?
    var closeIsEncoded = false
    /// `nextBatch` gave a batch that `batchSent` has not reported; or the carrier is new and its greeting still leaves.
    var isBatchOut = false

    /// Whether our bytes leave the carrier's own connection (docs/protocol.md 4.28): it is owed to say so, the frame is encoded, or was handed over.
    enum Spreading { case no, owed, encoded, done }
    var spreading = Spreading.no

    public internal(set) var isAttached = false
    /// The session has been agreed on once: frames may take their place.
    public internal(set) var isEstablished = false
    public internal(set) var epoch: UInt32 = 0
    var liveness: Liveness

    /// `hashSeed`: chance that the peer does not know. It chooses its streams' identifiers, and must not choose ones that collide.
    public init(role: Role, limits: Limits, hashSeed: UInt64 = 0, now: Instant) {
        self.role = role
        table = StreamTable(hashSeed: hashSeed)
        self.limits = limits
        nextOwnID = role == .client ? 0 : 1
        nextPeerID = role == .client ? 1 : 0
        refusals = Refusals(parity: role == .client ? 1 : 0)
        peerResets = TokenBucket(burst: limits.streams + ResetPace.receivedBurst, perSecond: ResetPace.receivedPerSecond)
        liveness = Liveness(now: now)
    }

    // MARK: What the owner wants

    public var streamCount: Int { table.count }
    /// Before the peer has told its limit, no more than every peer takes.
    public var canOpen: Bool {
        UInt64(table.count) < (isEstablished ? peerMaximumStreams : UInt64(Endpoint.streamSlack)) && table.count < limits.streams
            && nextOwnID + 2 < Specification.offsetMaximum
    }

    /// Opens a stream; costs no round trip, also without a carrier. `canOpen` must hold.
    public mutating func open(owner: StreamOwner, target: UInt64, now: Instant) -> StreamSlot {
        precondition(canOpen, "opened more streams than agreed")
        let credit = initialCredit(of: UInt64(max(0, limits.received)) - min(reserved, UInt64(max(0, limits.received))))
        var stream = Stream(
            id: nextOwnID, owner: owner, send: SendHalf(limit: 0),
            receive: ReceiveHalf(initial: credit, now: now))
        stream.pending = .open
        stream.target = target
        nextOwnID += 2
        let slot = insert(stream)
        scheduler.addOpening(slot, &table)
        return slot
    }

    /// No carrier was ever given the stream's OPEN: it can be opened in another session instead. Its bytes all wait.
    public func isUnopened(_ slot: StreamSlot) -> Bool { table[slot].pending.contains(.open) }

    /// Calls `body` with identifier and owner of every such stream, in no order. Linear.
    public func forEachUnopened(_ body: (UInt64, StreamOwner) -> Void) {
        table.forEach { _, stream in if stream.pending.contains(.open) { body(stream.id, stream.owner) } }
    }

    /// The stream is opened elsewhere: nothing of it remains here. Returns its target.
    public mutating func forget(unopened slot: StreamSlot) -> UInt64 {
        precondition(isUnopened(slot), "a stream that the peer may have heard of is moved")
        let target = table[slot].target
        remove(slot)
        return target
    }

    /// Calls `body` with identifier and owner of every own stream whose OPEN the peer may have, and of which no byte has passed in either
    /// direction, in no order. Linear.
    public func forEachSilent(_ body: (UInt64, StreamOwner) -> Void) {
        table.forEach { _, stream in
            guard isOwn(stream.id), stream.owner != .max, !stream.pending.contains(.open), stream.send.isOpen, stream.receive.isOpen else { return }
            var carried = stream.send.sequenced + stream.receive.received
            #if CANARIES
            if Canary.selected == .movesSpokenStreams { carried = 0 }
            #endif
            guard carried == 0 else { return }
            body(stream.id, stream.owner)
        }
    }

    /// A silent stream is opened elsewhere, with all its bytes: here it is reset. Returns its target.
    public mutating func leave(silent slot: StreamSlot, now: Instant) -> UInt64 {
        let target = table[slot].target
        reset(slot, .reset, now: now)
        return target
    }

    /// Answers `.opened`: the stream belongs to `owner` from now on.
    public mutating func adopt(_ slot: StreamSlot, owner: StreamOwner) {
        table[slot].owner = owner
    }

    /// The owner holds `count` more bytes for the peer.
    public mutating func write(_ slot: StreamSlot, _ count: Int) {
        table[slot].send.write(count)
        if table[slot].send.hasWork { scheduler.ready(slot, &table) }
    }

    /// No more bytes will be written. FIN follows the last one.
    public mutating func finish(_ slot: StreamSlot) {
        table[slot].send.finish()
        if !table[slot].pending.contains(.open) { finIfOwed(slot) }
    }

    /// FIN is a control frame: no stream that stands at a limit keeps it back.
    mutating func finIfOwed(_ slot: StreamSlot) {
        guard table[slot].send.owesFin else { return }
        table[slot].pending.insert(.fin)
        scheduler.addControl(slot, &table)
    }

    /// Ends both halves abruptly. The owner forgets the slot and its bytes at once.
    public mutating func reset(_ slot: StreamSlot, _ code: ResetCode, now: Instant) {
        consumeAll(slot, now)
        let isRefused = table[slot].owner == .max && !isOwn(table[slot].id)
        if table[slot].pending.contains(.open) || isRefused {
            if isRefused { refusals.append(table[slot].id, code) }  // Else the peer never heard of it.
            return remove(slot)
        }
        changeSend(slot) { $0.abandon() }
        changeReceive(slot) { $0.abandon() }
        table[slot].owner = .max
        scheduler.forget(slot, &table)
        table[slot].pending = .reset
        table[slot].resetCode = code.rawValue
        if isOwn(table[slot].id) { scheduler.addResetting(slot, &table) } else { scheduler.addControl(slot, &table) }
    }

    /// The user took `count` bytes of the stream. `ahead`: what the owner has room for ahead of the user. `room`: what the user's
    /// socket takes at once, where `measuresRoom` asked for it.
    public mutating func consume(_ slot: StreamSlot, _ count: Int, ahead: Int = .max, room: Int = 0, now: Instant) {
        dataConsumed += UInt64(count)
        let receive = table[slot].receive
        let ceiling =
            receive.window.isDue(receive.consumed + UInt64(count))
            ? min(share(of: slot) + UInt64(max(0, room)), UInt64(max(ahead, Int(Endpoint.creditFloor)))) : 0
        // Credit frames wait in the queues of the path as all bytes do.
        let roundTrip = max(liveness.roundTrips.minimum, liveness.roundTrips.usual)
        let isDue = changeReceive(slot) {
            $0.consume(UInt64(count), ceiling: ceiling, room: UInt64(max(0, room)), roundTrip: roundTrip, now: now)
        }
        if isDue {
            table[slot].pending.insert(.credit)
            scheduler.addControl(slot, &table)
        }
        noteUse(now)
        announceIfUseful(now)
    }

    /// A quarter of the receive budget within two round trips: more of it would be faster.
    private mutating func noteUse(_ now: Instant) {
        guard dataConsumed - usedMark >= UInt64(limits.received / 4) else { return }
        isShortOfBudget = now.since(usedAt) < max(liveness.roundTrips.minimum, CreditWindow.roundTripMinimum) * 2
        usedAt = now
        usedMark = dataConsumed
    }

    /// Users consume so fast that a larger receive budget would help. True once each time.
    public mutating func takeShortage() -> Bool {
        defer { isShortOfBudget = false }
        return isShortOfBudget
    }

    /// The stream's window is larger than its share of the receive budget, and a grant may be due when its user has taken `count`
    /// bytes more: the room in the user's socket decides how much of the window it gets. Bytes that the socket takes at once
    /// need no memory, so a user who stops reading has no more than its share here.
    public mutating func measuresRoom(_ slot: StreamSlot, _ count: Int) -> Bool {
        let receive = table[slot].receive
        return receive.isOpen && receive.window.isDue(receive.consumed + UInt64(count))
            && min(receive.window.size, Endpoint.ampleShare) > share(of: slot)
    }

    /// The most that may wait in memory for this stream's user: half of what a few streams leave; among many an equal part, and more
    /// in proportion to what the user has taken so far, so that those who take nothing hold little. Sockets' buffers take some bytes
    /// for a user who reads nothing; one who took more than that reads. A quarter of the budget is for equal parts only.
    private func share(of slot: StreamSlot) -> UInt64 {
        #if CANARIES
        if Canary.selected == .promisesBeyondLimit { return UInt64(max(0, limits.received)) }
        #endif
        let budget = UInt64(max(0, limits.received))
        let others = reserved - table[slot].receive.reserved
        let available = budget > others ? budget - others : 0
        let count = UInt64(table.count)
        guard count > Endpoint.fewStreams else {
            // On a far path nearly all: news of credit and acknowledgments may come seldom, and until then the line is to be busy.
            return max(liveness.roundTrips.minimum >= Liveness.far ? available - available / 8 : available / 2, Endpoint.creditFloor)
        }
        let taken = table[slot].receive.consumed
        let proven = taken > Endpoint.buffered ? (taken - Endpoint.buffered) / 2 : 0
        let earned = min(taken / 8 + proven, available > budget / 4 ? (available - budget / 4) / 2 : 0)
        return max(available / (2 * count), earned, Endpoint.creditFloor)
    }

    /// The end of the peer's bytes was passed on to the user. True: the stream is over, its slot is gone.
    public mutating func drain(_ slot: StreamSlot) -> Bool {
        table[slot].receive.drain()
        table[slot].pending.remove(.credit)
        if table[slot].pending.isEmpty { scheduler.removeControl(slot, &table) }
        return removeIfOver(slot)
    }

    /// `finish` was called.
    public func hasFinished(_ slot: StreamSlot) -> Bool { !table[slot].send.isOpen }
    /// The peer's FIN has come; `drain` was called.
    public func hasPeerFinished(_ slot: StreamSlot) -> Bool { !table[slot].receive.isOpen }
    public func hasDrained(_ slot: StreamSlot) -> Bool { table[slot].receive.isDrained }

    /// Bytes of the stream that the owner holds and that have no place in the sequence yet.
    public func waiting(_ slot: StreamSlot) -> Int { table[slot].send.waiting }
    /// Bytes of the stream that may be sent beyond those that have their place.
    public func credit(_ slot: StreamSlot) -> Int { table[slot].send.credit }
    /// Credit covers all bytes that wait.
    public func isCovered(_ slot: StreamSlot) -> Bool { table[slot].send.sendable == table[slot].send.waiting }

    /// The receive budget changes. What was told to the peer stands: a smaller one counts as it is used up.
    public mutating func setReceiveLimit(_ limit: Int, now: Instant) {
        guard limit != limits.received else { return }
        limits.received = limit
        if isAttached { announceIfUseful(now) }
    }

    /// Payload bytes that the peer has sent, or begun to send, and no user has taken.
    public var unconsumedByteCount: Int { Int(dataReceived - dataConsumed) }

    /// Payload bytes that have their place in the sequence, and payload bytes of the peer that users took: since the start.
    public var payloadSent: UInt64 { dataSent }
    public var payloadTaken: UInt64 { dataConsumed }
    /// The smoothed round trip of the carrier, as answers to PING showed it.
    public var roundTrip: Interval { liveness.roundTrips.usual }
    /// The same, but not what a queue can hardly explain: an answer may have been lost, and sent again.
    public var plausibleRoundTrip: Interval { min(liveness.roundTrips.usual, liveness.roundTrips.minimum * 3) }
    /// An outage of the way here that this side had no reason to notice, once it is over; zero: none.
    public mutating func takeInboundOutage() -> Interval { liveness.takeInboundOutage() }
    /// How long a queue on the way here keeps what comes, acknowledgments of TCP among it: zero unless the peer's PINGs show it.
    public func inboundWait(now: Instant) -> Interval { liveness.inboundWait(now: now) }
    /// What the last answer to a PING took.
    public var latestRoundTrip: Interval { liveness.roundTrips.latest }

    /// Ends the session with the next batch.
    public mutating func close(_ code: CloseCode, _ reason: StaticString) {
        owedClose = (code, reason)
    }

    /// Calls `body` with the owner of every stream that has one. Linear.
    public func forEachOwner(_ body: (StreamOwner) -> Void) {
        table.forEach { _, stream in if stream.owner != .max { body(stream.owner) } }
    }

    // MARK: Time

    /// While a batch is with the carrier nothing else can be handed over, so nothing but suspicion has a deadline:
    /// a carrier that takes no bytes must not keep its owner awake.
    ///
    /// Mutating, as some other questions, so that the endpoint is passed by its address: a borrowed one of this size would be copied.
    public var nextTimeout: Instant {
        mutating get {
            guard isAttached else { return .never }
            return isBatchOut ? min(liveness.doubtAt, liveness.suspicionAt, liveness.lateAt) : min(acknowledgmentDue, liveness.deadline, resetAt)
        }
    }

    /// What silence makes of the carrier.
    public enum Judgement: Sendable {
        case unchanged
        /// An answer takes longer than on a path that works: another one may be better.
        case late
        /// No answer came in time: a connect beside the carrier shall tell what that means.
        case inDoubt
        /// It is as good as dead.
        case suspected
    }

    /// Afterwards a batch may be due. Doubt and suspicion may come at once: then it is suspicion.
    public mutating func handleTimeout(now: Instant) -> Judgement {
        if resetAt <= now { resetAt = .never }
        guard isAttached else { return .unchanged }
        let isLate = liveness.comesLate(now: now)
        let isInDoubt = liveness.comesInDoubt(now: now)
        guard liveness.becomesSuspected(now: now) else { return isInDoubt ? .inDoubt : isLate ? .late : .unchanged }
        handedWhenSuspected = handed
        return .suspected
    }

    /// A connect was answered, and the carrier in doubt is silent still. True: it is suspected from now on.
    public mutating func probeAnswered() -> Bool {
        guard isInDoubt, !liveness.isSuspected else { return false }
        liveness.suspect()
        handedWhenSuspected = handed
        return true
    }

    /// The carrier's round trip as TCP measured it when it connected.
    public mutating func pathMeasured(_ roundTrip: Interval) { liveness.pathMeasured(roundTrip) }

    /// The path may have changed: ask the peer at once and suspect the carrier soon.
    public mutating func doubt(now: Instant) { if isAttached { liveness.doubt(now: now) } }

    /// Asks the peer at once whether it is there, unless an answer is due anyhow.
    public mutating func ask() { if isAttached { liveness.ask() } }

    /// The peer has answered something within this time, or two round trips.
    public func hasAnswered(within time: Interval, now: Instant) -> Bool {
        isAttached && now.since(liveness.answeredAt) <= max(time, liveness.roundTrips.usual * 2)
    }

    public var isSuspected: Bool { isAttached && liveness.isSuspected }
    /// Nothing that was sent on the carrier has been answered.
    public var isFruitless: Bool { isAttached && !liveness.hasAnswered }
    /// Or suspected.
    public var isInDoubt: Bool { isAttached && liveness.isInDoubt }
    /// The carrier comes in doubt now, or will be suspected, and nothing at all came from the peer: TCP may know why.
    public func isSilenceSuspicious(now: Instant) -> Bool {
        isAttached && liveness.isJudgementDue(now: now) && liveness.isSilent(now: now)
    }

    /// `Judgement.late` is wanted: there is another carrier at hand.
    public mutating func watchLateness(_ watches: Bool) { liveness.isWatched = watches }
    /// What the path takes to and fro, queues included.
    public var usualRoundTrip: Interval { liveness.roundTrips.usual }

    /// TCP's own acknowledgments arrive, after `roundTrip` as TCP measures it: the path is slow, not dead. No doubt before `until`.
    public mutating func bePatient(until: Instant, roundTrip: Interval) { liveness.bePatient(until: until, roundTrip: roundTrip) }

    // MARK: Helpers

    /// The stream was opened by this side.
    func isOwn(_ id: UInt64) -> Bool { id & 1 == nextOwnID & 1 }

    /// A share of `budget` that lets a few streams start at full speed and keeps thousands of stuck ones from using
    /// the budget up: the sum over n streams grows with log n only.
    func initialCredit(of budget: UInt64) -> UInt64 {
        let share = budget / UInt64(8 * (table.count + 8))
        return min(max(share, Endpoint.creditFloor), Specification.initialCreditMaximum)
    }

    // The only ways in which streams come, go and change their halves: the sums over all of them change with them.

    mutating func insert(_ stream: Stream) -> StreamSlot {
        outstanding += stream.receive.outstanding
        reserved += stream.receive.reserved
        peerPromised += stream.send.promised
        return table.insert(stream)
    }

    mutating func remove(_ slot: StreamSlot) {
        outstanding -= table[slot].receive.outstanding
        reserved -= table[slot].receive.reserved
        peerPromised -= table[slot].send.promised
        scheduler.forget(slot, &table)
        table.remove(slot)
    }

    @inline(__always) @discardableResult
    mutating func changeReceive<Result, Fault>(_ slot: StreamSlot, _ change: (inout ReceiveHalf) throws(Fault) -> Result) throws(Fault)
        -> Result
    {
        let before = (table[slot].receive.outstanding, table[slot].receive.reserved)
        let result = try change(&table[slot].receive)
        outstanding = outstanding &- before.0 &+ table[slot].receive.outstanding
        reserved = reserved &- before.1 &+ table[slot].receive.reserved
        return result
    }

    @inline(__always)
    mutating func changeSend(_ slot: StreamSlot, _ change: (inout SendHalf) -> Void) {
        let before = table[slot].send.promised
        change(&table[slot].send)
        peerPromised = peerPromised &- before &+ table[slot].send.promised
    }

    mutating func consumeAll(_ slot: StreamSlot, _ now: Instant) {
        let held = table[slot].receive.held
        #if CANARIES
        if Canary.selected == .creditLeak { return }
        #endif
        dataConsumed += held
        announceIfUseful(now)
    }

    mutating func removeIfOver(_ slot: StreamSlot) -> Bool {
        guard table[slot].isOver else { return false }
        remove(slot)
        return true
    }

    /// What the peer may send in all: the receive budget beyond what users took; besides, what their sockets have room for, and a
    /// little for each stream. So it is never below what the streams were granted, and none waits for another's user.
    private var dataLimit: UInt64 {
        let ahead = UInt64(max(0, limits.received)) + (outstanding - reserved) + UInt64(table.count) * Endpoint.creditFloor
        return min(dataConsumed + ahead, Specification.offsetMaximum)
    }

    /// The session's limit moved far enough to tell the peer at once; or it moved at all, and the peer stands at it: it
    /// would wait for a PING.
    mutating func announceIfUseful(_ now: Instant) {
        let limit = dataLimit
        guard limit > toldDataLimit else { return }
        if limit - toldDataLimit >= UInt64(limits.received / 4) {
            acknowledgmentDue = min(acknowledgmentDue, now)
        } else if toldDataLimit < dataReceived + UInt64(Endpoint.nearLimit) {
            acknowledgmentDue = min(acknowledgmentDue, now + acknowledgmentDelay)
        }
    }

    /// What the peer may send in all; never less than it was told.
    mutating func announceDataLimit() -> UInt64 {
        announcedDataLimit = max(announcedDataLimit, dataLimit)
        return announcedDataLimit
    }

    public func checkInvariants() {
        precondition(acknowledged <= handed && cursor <= handed && handed <= sent, "send offsets out of order")
        precondition(dataConsumed <= dataReceived && dataReceived <= announcedDataLimit, "receive counts out of order")
        precondition(acknowledgedToPeer <= received, "acknowledged bytes that did not arrive")
        precondition(reserved <= outstanding, "more memory is reserved than was granted")
    }
}
