import Tunnel
import Wire

/// Who is dialled, when, and which of several carriers owns the client's session. Pure: told what happened, asked what
/// to do (`nextAction`), no sockets, clock or chance of its own.
///
/// While the session has no carrier, or doubts the one it has, a fresh connect starts at short fixed intervals and old
/// ones are abandoned: TCP's own retransmission time-outs double, so an old attempt wakes up long after the path is whole.
/// The old carrier stays until a new one has won.
///
///     candidate:  connecting ──connected──▶ connected ──HELLO──▶ greeted ──WELCOME──▶ (the session's carrier)
///                     └──────── failed, too old, another won ───────┴──▶ gone
public struct Dialer: ~Copyable {
    public typealias CandidateID = UInt64

    public enum Action: Equatable, Sendable {
        /// Start a connect to the address with this index. `handleConnected` or `handleFailed` follows.
        case connect(CandidateID, address: Int)
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

    private enum Need: Equatable {
        /// A carrier works.
        case settled
        /// None, or a doubtful one.
        case seeking
        /// The process is ending.
        case stopped
    }

    private struct Candidate {
        enum Phase: Equatable { case connecting, connected, greeted(attempt: UInt64) }
        let id: CandidateID
        let address: Int
        var phase: Phase = .connecting
        let startedAt: Instant
        var deadline: Instant
        /// It may outlive the others: on a long path only patience connects.
        let isPatient: Bool
        var connectTook = Interval.zero
        var greetedAt = Instant.never

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
    private var addressCount = 0
    private var nextAddress = 0
    /// Addresses that failed since the last dial at its time: the next one is tried at once, but each only once.
    private var failuresInRow = 0
    private var candidates: [Candidate] = []
    private var nextID: CandidateID = 1
    private var patience = DialPolicy.patienceMinimum
    private var actions: [Action] = []

    public init(now: Instant) {
        pace = DialPace(now: now)
        dialAt = now
    }

    /// A carrier is missing or in doubt.
    public var isSeeking: Bool { need == .seeking }
    public var hasCandidates: Bool { !candidates.isEmpty }

    /// What to do, oldest first. Call until nil after each event.
    public mutating func nextAction() -> Action? { actions.isEmpty ? nil : actions.removeFirst() }

    // MARK: The session and its path

    /// The name of the server has so many addresses now, in another order than before.
    public mutating func handleAddresses(_ count: Int, now: Instant) {
        addressCount = count
        nextAddress = 0
        if isSeeking, count > 0, candidates.isEmpty { dialAt = now }
    }

    public mutating func handleSuspected(now: Instant) { seek(now) }

    /// The suspicion was wrong. A candidate that has said HELLO may own the session already, so it runs its course.
    public mutating func handleRecovered() {
        guard hasCarrier, need == .seeking else { return }
        need = .settled
        abandon(.notNeeded) { $0.attempt == nil }
        withdrawIfNoneGreeted()
    }

    public mutating func handleCarrierLost(now: Instant) {
        hasCarrier = false
        seek(now)
        // A later HELLO that is under way may bring the next carrier by itself.
        if candidates.contains(where: { $0.attempt != nil }) { dialAt = max(dialAt, now + DialPolicy.greetingMinimum) }
        greet(now)
    }

    /// Links, addresses or routes changed, or time was lost: try at once, whatever the pace.
    public mutating func handlePathChanged(now: Instant) {
        pace.restart(now: now)
        guard isSeeking else { return }
        dialAt = now
        // What was said on the old path keeps nobody back.
        for index in candidates.indices where candidates[index].attempt != nil {
            candidates[index].greetedAt = Instant(nanoseconds: 0)
            candidates[index].connectTook = .zero
        }
        greet(now)
    }

    /// The session has ended; a new one counts its attempts anew.
    public mutating func handleSessionReplaced(now: Instant) {
        abandon(.notNeeded) { _ in true }
        hasCarrier = false
        attempt = 0
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
        if need == .settled { pace.restart(now: now) }
        need = .seeking
        dialAt = now
        failuresInRow = 0
    }

    // MARK: Candidates

    public mutating func handleConnected(_ id: CandidateID, now: Instant) {
        guard let index = index(id), candidates[index].phase == .connecting else { return }
        candidates[index].phase = .connected
        candidates[index].connectTook = now.since(candidates[index].startedAt)
        candidates[index].deadline = now + answerTime(candidates[index].connectTook)
        greet(now)
    }

    /// The candidate is gone: the connect failed, or the connection ended before WELCOME.
    public mutating func handleFailed(_ id: CandidateID, now: Instant) {
        guard let index = index(id) else { return }
        candidates.remove(at: index)
        withdrawIfNoneGreeted()
        guard isSeeking else { return }
        greet(now)
        failuresInRow += 1
        // The next address at once (RFC 8305 §5), unless each has had its turn.
        if failuresInRow < addressCount { dialAt = min(dialAt, now) }
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
        candidates.remove(at: index)
        hasCarrier = true
        need = .settled
        patience = DialPolicy.patienceMinimum
        // What worked last is tried first next time.
        nextAddress = address
        abandon(.notNeeded) { $0.attempt.map { $0 < won } ?? true }
        for candidate in candidates { actions.append(.keep(candidate.id)) }
    }

    // MARK: Time

    public var nextTimeout: Instant {
        var next = Instant.never
        for candidate in candidates { next = min(next, candidate.deadline) }
        guard isSeeking else { return next }
        if addressCount > 0 { next = min(next, dialAt) }
        return min(next, greetAt)
    }

    public mutating func handleTimeout(now: Instant, using generator: inout some RandomNumberGenerator) {
        let before = candidates.count
        abandon(.unanswered) { $0.deadline <= now }
        if candidates.count < before { withdrawIfNoneGreeted() }
        guard isSeeking else { return }
        greet(now)
        guard addressCount > 0, now >= dialAt else { return }
        if failuresInRow >= addressCount { failuresInRow = 0 }
        dial(now)
        dialAt = now + pace.next(now: now, using: &generator)
    }

    private mutating func dial(_ now: Instant) {
        if candidates.count >= DialPolicy.candidatesMaximum { makeRoom() }
        let isPatient = !candidates.contains { $0.isPatient && $0.phase == .connecting }
        let allowed = isPatient ? patience : DialPolicy.attemptMaximum
        if isPatient, patience < DialPolicy.patienceMaximum { patience = min(patience * 2, DialPolicy.patienceMaximum) }
        let candidate = Candidate(id: nextID, address: nextAddress % addressCount, startedAt: now, deadline: now + allowed,
                                  isPatient: isPatient)
        nextID += 1
        nextAddress = (nextAddress + 1) % addressCount
        candidates.append(candidate)
        actions.append(.connect(candidate.id, address: candidate.address))
    }

    /// The oldest gives way, one that has not said HELLO before one that has, and a patient one last.
    private mutating func makeRoom() {
        func rank(_ candidate: Candidate) -> Int {
            candidate.isPatient && candidate.phase == .connecting ? 2 : candidate.attempt == nil ? 0 : 1
        }
        guard let oldest = candidates.min(by: { (rank($0), $0.id) < (rank($1), $1.id) }) else { return }
        abandon(.crowded) { $0.id == oldest.id }
        withdrawIfNoneGreeted()
    }

    // MARK: HELLO

    /// The newest that can say HELLO, and when: one after the other on one way, because each displaces the one before, and
    /// at once on another way, because the first may lead nowhere.
    private var nextToGreet: (index: Int, at: Instant)? {
        guard let index = candidates.lastIndex(where: { $0.phase == .connected }) else { return nil }
        let candidate = candidates[index]
        var at = Instant(nanoseconds: 0)
        for other in candidates where other.attempt != nil && other.address == candidate.address {
            at = max(at, other.greetedAt + min(max(DialPolicy.greetingMinimum, other.connectTook * 2),
                                               DialPolicy.greetingMaximum))
        }
        return (index, at)
    }

    private var greetAt: Instant { nextToGreet?.at ?? .never }

    private mutating func greet(_ now: Instant) {
        guard isSeeking, let (index, at) = nextToGreet, at <= now else { return }
        attempt += 1
        candidates[index].phase = .greeted(attempt: attempt)
        candidates[index].greetedAt = now
        candidates[index].deadline = now + answerTime(candidates[index].connectTook)
        actions.append(.greet(candidates[index].id, attempt: attempt))
    }

    /// A handshake takes a round trip, as the connect did.
    private func answerTime(_ connectTook: Interval) -> Interval {
        min(max(DialPolicy.attemptMaximum, connectTook * 4), DialPolicy.answerMaximum)
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
