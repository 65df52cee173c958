import Time
import Tunnel
import Wire

/// Who is dialled, when, and which of several carriers owns the client's session. Pure: told what happened, asked what
/// to do (`nextAction`), no sockets, clock or chance of its own.
///
/// While the session has no carrier, or doubts the one it has, a fresh connect starts at short fixed intervals and old
/// ones are abandoned: TCP's own retransmission time-outs double, so an old attempt wakes up long after the path is whole.
/// The old carrier stays until a new one has won.
///
///     candidate:  connecting ─▶ connected ─(TLS: securing ─▶ secured)─HELLO─▶ greeted ─WELCOME─▶ (the session's carrier)
///                     └──────── failed, too old, another won ───────┴──▶ gone
///
/// A connect costs the server nothing worth counting; a TLS handshake costs it CPU, and a crowd that comes back begins all of
/// them at once. So handshakes follow each other slowly and no more than a few are under way, and a connection that waits for
/// its turn keeps the next from being dialled.
///
/// `Address` tells addresses apart by what they are, not by where they stand: a name server gives them in any order.
public struct Dialer<Address: Hashable & Sendable>: ~Copyable {
    public typealias CandidateID = UInt64

    public enum Action: Equatable, Sendable {
        /// Start a connect. `handleConnected` or `handleFailed` follows.
        case connect(CandidateID, address: Address)
        /// Start the TLS handshake. `handleSecured` or `handleFailed` follows.
        case secure(CandidateID)
        /// Send HELLO with this attempt number.
        case greet(CandidateID, attempt: UInt64)
        /// End the candidate; nothing of it is reported any more.
        case abandon(CandidateID, Reason)
        /// It has said HELLO later than the winner and may take the session over yet: keep what its HELLO offered.
        case keep(CandidateID)
        /// No HELLO is open any more.
        case withdrawOffers
    }

    public enum Reason: Equatable, Sendable {
        /// Another candidate is the carrier now, or none is needed.
        case notNeeded
        /// Too old.
        case unanswered
        /// Newer attempts need its place.
        case crowded
    }

    /// Why an attempt failed, as far as it shows when the next one is worth its price.
    public enum Failure: Equatable, Sendable {
        case passing
        /// The host is there, and nothing listens at the port.
        case refused
        /// The next one will fail too, until somebody mends something.
        case lasting
    }

    private enum Need: Equatable {
        /// A carrier works.
        case settled
        /// None, or a doubtful one.
        case seeking
        /// The process is ending.
        case stopped
    }

    private struct Candidate {
        enum Phase: Equatable { case connecting, connected, securing, secured, greeted(attempt: UInt64) }
        let id: CandidateID
        let address: Address
        var phase: Phase = .connecting
        let startedAt: Instant
        var deadline: Instant
        /// It may outlive the others: on a long path only patience connects, and a server or proxy with a crowd before it answers first
        /// who has waited longest.
        var isPatient: Bool
        /// The deadline of one that is not patient.
        var usualDeadline: Instant
        var connectTook = Interval.zero
        var connectedAt = Instant.never
        var securedFrom = Instant.never
        var greetedAt = Instant.never
        /// Bytes of the server came on it.
        var isHeard = false

        /// A handshake has been begun on it.
        var isBegun: Bool { phase != .connecting && phase != .connected }

        var attempt: UInt64? {
            if case .greeted(let attempt) = phase { return attempt }
            return nil
        }
    }

    /// The last attempt number that was used in the session.
    public private(set) var attempt: UInt64 = 0
    private var need = Need.seeking
    private var hasCarrier = false
    private var pace: DialPace
    private var dialAt: Instant
    /// What the server's name has, in the order in which they are tried, and whose turn it is.
    private var addresses: [Address] = []
    private var nextAddress = 0
    /// Addresses of other servers: they do not know the session, and are not asked for it again while there is one that may.
    private var foreign: Set<Address> = []
    /// Addresses that failed since the last dial at its time: the next one is tried at once, but each only once.
    private var failuresInRow = 0
    /// The host answered the last attempt, by a refusal or by an end without WELCOME: the network is well, and nobody is lost who comes a
    /// little later.
    private var isTurnedAway = false
    /// Carriers in a row that were lost before anything was answered.
    private var fruitlessInRow = 0
    private var candidates: [Candidate] = []
    private var nextID: CandidateID = 1
    private let isSecure: Bool
    /// Between two attempts, at least.
    private let minimumPace: Interval
    /// TLS handshakes begun since a carrier was missed.
    private var handshakesInRow: UInt64 = 0
    /// What the connect of the last carrier took.
    private var connectTook = Interval.zero
    private var connectPatience = DialPolicy.patienceMinimum
    private var answerPatience = DialPolicy.patienceMinimum
    /// Since when no attempt was answered, neither with a connection nor with an error.
    private var unansweredSince: Instant?
    /// Pauses of this outage, and the end of the current one.
    private var pauses = 0
    private var pausedUntil: Instant?
    private var segments = SegmentSize()
    private var actions: [Action] = []

    /// `isSecure`: a TLS handshake goes before HELLO. `minimumPace`: between two attempts, at least. `attempt`: the last one of a restored
    /// session.
    public init(isSecure: Bool = false, minimumPace: Interval = .zero, attempt: UInt64 = 0, now: Instant) {
        self.isSecure = isSecure
        self.minimumPace = minimumPace
        self.attempt = attempt
        pace = DialPace(now: now)
        dialAt = now
    }

    /// A carrier is missing or in doubt.
    public var isSeeking: Bool { need == .seeking }
    public var hasCandidates: Bool { !candidates.isEmpty }
    /// Nothing is dialled for a while: a firewall may have banned this address.
    public var isPausing: Bool { pausedUntil != nil }
    /// The segment size of new connections, at most, in bytes. Nil: TCP's own choice.
    public var segmentByteCount: Int32? { segments.limit }

    /// What to do, oldest first. Call until nil after each event.
    public mutating func nextAction() -> Action? { actions.isEmpty ? nil : actions.removeFirst() }

    // MARK: The session and its path

    /// What the server's name has now, at most once each, the first to be tried first. `foreign`: those of other servers.
    public mutating func handleAddresses(_ addresses: [Address], foreign: Set<Address> = [], now: Instant) {
        self.addresses = addresses
        nextAddress = 0
        self.foreign = foreign
        endPause()
        if isSeeking, !addresses.isEmpty, candidates.isEmpty { dialAt = now }
    }

    /// `isFruitless`: nothing that was sent on the carrier has been answered since it was attached.
    public mutating func handleSuspected(isFruitless: Bool = false, now: Instant) {
        if need == .settled { isFruitless ? segments.handleFruitless() : segments.handleAnswered() }
        seek(now)
    }

    /// A connection to `address` that is ready for HELLO, TLS included, and was made in `connectTook`, is a candidate from now on: it says HELLO
    /// at once. Others are dialled when it is not answered in time.
    public mutating func handleStandby(_ address: Address, connectTook: Interval, now: Instant) -> CandidateID {
        seek(now)
        if candidates.count >= DialPolicy.candidatesMaximum { makeRoom() }
        let id = nextID
        nextID += 1
        let deadline = now + answerTime(connectTook)
        var candidate = Candidate(id: id, address: address, startedAt: now, deadline: deadline, isPatient: false, usualDeadline: deadline)
        candidate.phase = isSecure ? .secured : .connected
        (candidate.connectTook, candidate.connectedAt) = (connectTook, now)
        candidates.append(candidate)
        dialAt = max(dialAt, now + max(DialPolicy.greetingMinimum, connectTook * 2))
        greet(now)
        return id
    }

    /// The way to the server is another one.
    public mutating func handleRouteChanged() { segments = SegmentSize() }

    /// The suspicion was wrong. A candidate that has said HELLO may own the session already, so it runs its course.
    public mutating func handleRecovered() {
        guard hasCarrier, need == .seeking else { return }
        segments.handleAnswered()
        need = .settled
        abandon(.notNeeded) { $0.attempt == nil }
        endPatience()
        withdrawIfNoneGreeted()
    }

    /// `isFruitless`: nothing that was sent on it was answered.
    public mutating func handleCarrierLost(isFruitless: Bool = false, now: Instant) {
        hasCarrier = false
        // With nothing left to wait for they are asked once more.
        foreign = []
        seek(now)
        // A later HELLO that is in flight may bring the next carrier.
        if candidates.contains(where: { $0.attempt != nil }) { dialAt = max(dialAt, now + DialPolicy.greetingMinimum) }
        fruitlessInRow = isFruitless ? fruitlessInRow + 1 : 0
        if fruitlessInRow > DialPolicy.fruitlessAtOnce {
            let doublings = min(fruitlessInRow - DialPolicy.fruitlessAtOnce - 1, 10)
            dialAt = max(dialAt, now + min(DialPace.eager * (1 << UInt64(doublings)), DialPolicy.fruitlessPause))
        }
        greet(now)
    }

    /// Links, addresses or routes changed, or time was lost: try at once, whatever the pace.
    public mutating func handlePathChanged(now: Instant) {
        pace.restart(now: now)
        endPause()
        isTurnedAway = false
        guard isSeeking else { return }
        dialAt = now
        // Refusals on the old path do not delay attempts on the new one.
        endPatience()
        for index in candidates.indices where candidates[index].attempt != nil {
            candidates[index].greetedAt = Instant(nanoseconds: 0)
            candidates[index].connectTook = .zero
        }
        for index in candidates.indices where candidates[index].isBegun { candidates[index].securedFrom = Instant(nanoseconds: 0) }
        handshakesInRow = 0
        greet(now)
    }

    /// The session has ended; a new one counts its attempts anew.
    public mutating func handleSessionReplaced(now: Instant) {
        abandon(.notNeeded) { _ in true }
        hasCarrier = false
        attempt = 0
        foreign = []
        seek(now)
    }

    /// The process ends: nothing is dialled any more.
    public mutating func stop() {
        need = .stopped
        abandon(.notNeeded) { _ in true }
        withdrawIfNoneGreeted()
    }

    private mutating func seek(_ now: Instant) {
        guard need == .settled || need == .seeking && !hasCarrier else { return }
        if need == .settled {
            pace.restart(now: now)
            endPause()
            isTurnedAway = false
        }
        if pausedUntil != nil {
            pausedUntil = nil
            unansweredSince = now
        }
        need = .seeking
        dialAt = now
        failuresInRow = 0
        handshakesInRow = 0
    }

    private mutating func endPause() {
        unansweredSince = nil
        pausedUntil = nil
        pauses = 0
    }

    // MARK: Candidates

    public mutating func handleConnected(_ id: CandidateID, now: Instant) {
        guard let index = index(id), candidates[index].phase == .connecting else { return }
        endPause()
        candidates[index].phase = .connected
        candidates[index].connectedAt = now
        let took = now.since(candidates[index].startedAt)
        // It may have been sent again while the path was dead: that says nothing of the path (RFC 6298 §3).
        let isClear = took < DialPolicy.synRetransmission || connectTook == .zero
        candidates[index].connectTook = isClear ? took : min(took, connectTook)
        candidates[index].usualDeadline = now + answerTime(candidates[index].connectTook)
        candidates[index].deadline = candidates[index].usualDeadline
        candidates[index].isPatient = false
        // One connection to an address waits for its turn, the newest.
        let address = candidates[index].address
        abandon(.crowded) { $0.phase == .connected && $0.address == address && $0.id != id }
        greet(now)
    }

    /// The TLS handshake is complete.
    public mutating func handleSecured(_ id: CandidateID, now: Instant) {
        guard let index = index(id), candidates[index].phase == .securing else { return }
        candidates[index].phase = .secured
        greet(now)
    }

    /// Bytes of the server came before its WELCOME: it is busy with this handshake, not away.
    public mutating func handleHeard(_ id: CandidateID, now: Instant) {
        guard let index = index(id), !candidates[index].isHeard else { return }
        candidates[index].isHeard = true
        extend(index, now)
    }

    /// The candidate is gone: the connect failed, or the connection ended before WELCOME.
    public mutating func handleFailed(_ id: CandidateID, _ failure: Failure = .passing, now: Instant) {
        guard let index = index(id) else { return }
        isTurnedAway = failure == .refused || candidates[index].phase != .connecting
        candidates.remove(at: index)
        withdrawIfNoneGreeted()
        guard isSeeking else { return }
        // A refusal proves that the host is up.
        endPause()
        greet(now)
        failuresInRow += 1
        // The next address at once (RFC 8305 §5), unless each has had its turn.
        if failuresInRow < usable {
            dialAt = min(dialAt, now)
        } else if failure == .lasting {
            dialAt = max(dialAt, now + DialPolicy.lastingPause)
        }
    }

    /// TCP gave the attempt up: no answer.
    public mutating func handleUnanswered(_ id: CandidateID) { candidates.removeAll { $0.id == id } }

    /// Another server answered on this candidate, one that does not know the session.
    public mutating func handleForeign(_ id: CandidateID, now: Instant) {
        guard let index = index(id) else { return }
        let address = candidates[index].address
        foreign.insert(address)
        handleFailed(id, now: now)
        abandon(.notNeeded) { $0.address == address }
        withdrawIfNoneGreeted()
    }

    /// A WELCOME came that answers `attempt`. False: not to a HELLO of this candidate.
    public borrowing func isAnswer(_ id: CandidateID, attempt: UInt64) -> Bool {
        index(id).map { candidates[$0].attempt == attempt } ?? false
    }

    /// The session goes on, on this candidate's connection. Later HELLOs that are under way will take it over when the
    /// server reads them: their carriers must live. All others have lost (docs/protocol.md §4.19).
    public mutating func handleWon(_ id: CandidateID) {
        guard let index = index(id), let won = candidates[index].attempt else {
            preconditionFailure("a carrier that never said HELLO has won")
        }
        let address = candidates[index].address
        connectTook = candidates[index].connectTook
        candidates.remove(at: index)
        hasCarrier = true
        need = .settled
        segments.handleWon()
        connectPatience = DialPolicy.patienceMinimum
        endPatience()
        // What worked last is tried first next time.
        nextAddress = addresses.firstIndex(of: address) ?? 0
        abandon(.notNeeded) { $0.attempt.map { $0 < won } ?? true }
        for candidate in candidates { actions.append(.keep(candidate.id)) }
    }

    // MARK: Time

    public var nextTimeout: Instant {
        var next = Instant.never
        for candidate in candidates { next = min(next, candidate.deadline) }
        guard isSeeking else { return next }
        if turn != nil { next = min(next, dialAt) }
        return min(next, greetAt, nextToSecure?.at ?? .never)
    }

    public mutating func handleTimeout(now: Instant, using generator: inout some RandomNumberGenerator) {
        let before = candidates.count
        for candidate in candidates where candidate.deadline <= now && candidate.isBegun { segments.handleUnanswered() }
        abandon(.unanswered) { $0.deadline <= now }
        if candidates.count < before { withdrawIfNoneGreeted() }
        guard isSeeking else { return }
        greet(now)
        guard let turn, now >= dialAt, !takesPause(now) else { return }
        if failuresInRow >= usable { failuresInRow = 0 }
        if !hasSpare(turn, now) { dial(turn, now) }
        // On a long path four attempts in a round trip are enough.
        var least = min(Interval(nanoseconds: connectTook.nanoseconds / 4), DialPolicy.longPathPace)
        if isTurnedAway { least = max(least, pace.nextWhenTurnedAway(now: now)) }
        let connected = candidates.count { $0.phase != .connecting && $0.address == turn }
        if connected > 1 { least = max(least, min(DialPace.eager * (1 << UInt64(connected - 1)), DialPolicy.connectedPace)) }
        dialAt = now + max(pace.next(now: now, using: &generator), least, minimumPace)
    }

    /// Whether nothing shall be dialled now. A pause begins when nobody has answered for long enough: with it end the attempts that TCP
    /// would repeat. Whatever shows that the way has changed ends it.
    private mutating func takesPause(_ now: Instant) -> Bool {
        if let end = pausedUntil {
            guard now >= end else { return true }
            pausedUntil = nil
            unansweredSince = now
        }
        let since = unansweredSince ?? now
        unansweredSince = since
        let allowed =
            pauses > 0
            ? DialPolicy.unansweredBetweenPauses
            : hasCarrier ? DialPolicy.unansweredMaximumBesideCarrier : DialPolicy.unansweredMaximum
        guard now.since(since) >= allowed else { return false }
        pauses += 1
        pausedUntil = now + DialPolicy.banPause
        dialAt = now + DialPolicy.banPause
        abandon(.unanswered) { $0.phase == .connecting }
        return true
    }

    /// A fresh connection to the address whose turn it is waits for its own turn already.
    private func hasSpare(_ address: Address, _ now: Instant) -> Bool {
        candidates.contains {
            $0.phase == .connected && $0.address == address
                && now.since($0.connectedAt) < max(DialPolicy.spareMinimum, $0.connectTook * 2)
        }
    }

    /// Addresses that may know the session. If the name leads to other servers only, each of them is asked: its answer decides.
    private var usable: Int {
        let count = addresses.count { !foreign.contains($0) }
        return count > 0 ? count : addresses.count
    }

    /// The address that is dialled next. Nil: the name has none.
    private var turn: Address? {
        let inTurn = addresses[min(nextAddress, addresses.count)...] + addresses[..<min(nextAddress, addresses.count)]
        return inTurn.first { !foreign.contains($0) } ?? inTurn.first
    }

    private mutating func dial(_ address: Address, _ now: Instant) {
        if candidates.count >= DialPolicy.candidatesMaximum { makeRoom() }
        let isPatient = !candidates.contains { $0.isPatient && $0.phase == .connecting }
        let usual = now + DialPolicy.attemptMaximum
        let candidate = Candidate(
            id: nextID, address: address, startedAt: now, deadline: isPatient ? now + connectPatience : usual,
            isPatient: isPatient, usualDeadline: usual)
        if isPatient { connectPatience = min(connectPatience * 2, DialPolicy.patienceMaximum) }
        nextID += 1
        nextAddress = ((addresses.firstIndex(of: address) ?? 0) + 1) % addresses.count
        candidates.append(candidate)
        actions.append(.connect(candidate.id, address: candidate.address))
    }

    /// The oldest gives way, one that has not said HELLO before one that has, and a patient one last.
    private mutating func makeRoom() {
        func rank(_ candidate: Candidate) -> Int { candidate.isPatient ? 2 : candidate.isBegun ? 1 : 0 }
        guard let oldest = candidates.min(by: { (rank($0), $0.id) < (rank($1), $1.id) }) else { return }
        abandon(.crowded) { $0.id == oldest.id }
        withdrawIfNoneGreeted()
    }

    // MARK: HELLO

    /// The newest that can say HELLO, and when: one after the other on one way, because each displaces the one before, and
    /// at once on another way, because the first may lead nowhere.
    private var nextToGreet: (index: Int, at: Instant)? {
        guard let index = candidates.lastIndex(where: { $0.phase == (isSecure ? .secured : .connected) }) else { return nil }
        let candidate = candidates[index]
        var at = Instant(nanoseconds: 0)
        for other in candidates where other.attempt != nil && other.address == candidate.address {
            at = max(
                at,
                other.greetedAt
                    + min(
                        max(DialPolicy.greetingMinimum, other.connectTook * 2),
                        DialPolicy.greetingMaximum))
        }
        return (index, at)
    }

    private var greetAt: Instant { nextToGreet?.at ?? .never }

    private mutating func greet(_ now: Instant) {
        secure(now)
        guard isSeeking, let (index, at) = nextToGreet, at <= now else { return }
        let candidate = candidates[index]
        // A server that was stopped answers all of them, one after the other.
        let others = candidates.filter { $0.attempt != nil && $0.address == candidate.address }
        if !isSecure, others.count >= DialPolicy.handshakesMaximum, let oldest = others.filter({ !$0.isPatient }).map(\.id).min() {
            abandon(.crowded) { $0.id == oldest }
        }
        greet(candidate.id, now)
    }

    private mutating func greet(_ id: CandidateID, _ now: Instant) {
        guard let index = index(id) else { return }
        attempt += 1
        candidates[index].phase = .greeted(attempt: attempt)
        candidates[index].greetedAt = now
        isSecure ? extend(index, now) : begin(index, now)
        actions.append(.greet(candidates[index].id, attempt: attempt))
    }

    /// The newest connection on which a TLS handshake can begin, and when: later after each that was begun in vain, and, while a few
    /// are under way to the same address, when the oldest of them that has heard nothing is given up.
    private var nextToSecure: (index: Int, at: Instant, instead: CandidateID?)? {
        guard isSecure, let index = candidates.lastIndex(where: { $0.phase == .connected }) else { return nil }
        let address = candidates[index].address
        var at = Instant(nanoseconds: 0)
        var count = 0
        var oldest: (id: CandidateID, at: Instant)?
        for other in candidates where other.isBegun && other.address == address {
            count += 1
            let usual = max(DialPolicy.handshakeMinimum, other.connectTook * 3)
            let most = max(DialPolicy.handshakeMaximum, other.connectTook * 3)
            at = max(at, other.securedFrom + min(usual * (1 << min(max(handshakesInRow, 1) - 1, 8)), most))
            // The server works on it.
            if other.isHeard { at = max(at, other.securedFrom + DialPolicy.handshakeHeard) }
            if !other.isHeard, !other.isPatient, oldest == nil {
                oldest = (other.id, other.securedFrom + max(DialPolicy.handshakeSilence, other.connectTook * 6))
            }
        }
        guard count >= DialPolicy.handshakesMaximum else { return (index, at, nil) }
        guard let oldest else { return nil }
        return (index, max(at, oldest.at), oldest.id)
    }

    private mutating func secure(_ now: Instant) {
        guard isSeeking, let (index, at, instead) = nextToSecure, at <= now else { return }
        candidates[index].phase = .securing
        candidates[index].securedFrom = now
        begin(index, now)
        handshakesInRow += 1
        actions.append(.secure(candidates[index].id))
        if let instead {
            segments.handleUnanswered()
            abandon(.unanswered) { $0.id == instead }
        }
    }

    /// A handshake takes a round trip, as the connect did.
    private func answerTime(_ connectTook: Interval) -> Interval {
        min(max(DialPolicy.attemptMaximum, connectTook * 4), DialPolicy.answerMaximum)
    }

    /// A handshake begins. One to each address may take long.
    private mutating func begin(_ index: Int, _ now: Instant) {
        let address = candidates[index].address
        candidates[index].usualDeadline = now + answerTime(candidates[index].connectTook)
        candidates[index].deadline = candidates[index].usualDeadline
        guard !candidates.contains(where: { $0.isPatient && $0.isBegun && $0.address == address }) else { return }
        candidates[index].isPatient = true
        candidates[index].deadline = max(candidates[index].deadline, now + answerPatience)
        answerPatience = min(answerPatience * 2, DialPolicy.patienceMaximum)
    }

    /// The handshake goes on.
    private mutating func extend(_ index: Int, _ now: Instant) {
        candidates[index].usualDeadline = now + answerTime(candidates[index].connectTook)
        candidates[index].deadline = max(candidates[index].deadline, candidates[index].usualDeadline)
    }

    /// What waits longer than usual is needed no more: acknowledgments are held back for each HELLO that is open, and an old way may
    /// lead nowhere.
    private mutating func endPatience() {
        answerPatience = DialPolicy.patienceMinimum
        for index in candidates.indices where candidates[index].isBegun {
            candidates[index].isPatient = false
            candidates[index].deadline = min(candidates[index].deadline, candidates[index].usualDeadline)
        }
    }

    // MARK: Helpers

    private func index(_ id: CandidateID) -> Int? { candidates.firstIndex { $0.id == id } }

    private mutating func abandon(_ reason: Reason, where isMeant: (Candidate) -> Bool) {
        for candidate in candidates where isMeant(candidate) { actions.append(.abandon(candidate.id, reason)) }
        candidates.removeAll(where: isMeant)
    }

    /// Once a carrier works and no HELLO is open, acknowledgments need not be held back any more.
    private mutating func withdrawIfNoneGreeted() {
        guard hasCarrier, !candidates.contains(where: { $0.attempt != nil }) else { return }
        actions.append(.withdrawOffers)
    }

    public borrowing func checkInvariants() {
        precondition(candidates.count <= DialPolicy.candidatesMaximum, "more candidates than there may be")
        precondition(candidates.allSatisfy { ($0.attempt ?? 0) <= attempt }, "an attempt that was not counted")
        precondition(need != .settled || hasCarrier, "settled without a carrier")
    }
}
