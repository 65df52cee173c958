/// Byte accounting for all sessions: what they hold for their peers, what receives may bring, what waits for users.
///
/// Half of `-memory` is for bytes towards peers, half for bytes that peers were promised room for (the registry grants
/// those). A session may hold `-buffer`, and four times what is left of all: one can use most of it, and a newcomer always
/// finds some (dynamic threshold, Choudhury & Hahne 1998). Among hundreds that take what they can that is next to nothing, so each
/// is sure of a little besides: a quarter of the whole is for that.
///
/// Of a session's `-buffer` at most half holds bytes that have no place in its sequence yet, and of what is left of that half one
/// user a quarter; users whose streams stand still for want of credit hold little, and leave room for the others.
final class Budget {
    /// A session's share of the count. Only the budget changes it.
    struct Account {
        fileprivate(set) var held = 0
        /// Of these: read from users, without a place in the sequence.
        fileprivate(set) var unplaced = 0
        /// Room for what pooled receives under way may bring.
        fileprivate(set) var expected = 0
        /// Bytes that it may hold whatever the others hold.
        fileprivate(set) var guaranteed = 0
        /// Bytes that it has held, and holds no more.
        fileprivate(set) var left: UInt64 = 0
        /// Bytes that it ever held.
        var entered: UInt64 { left + UInt64(held) }
    }

    let sessionMaximum: Int
    let total: Int
    /// Bytes that sessions keep for their peers.
    private(set) var held = 0
    /// Room in slabs that receives are armed with.
    private(set) var armed = 0
    /// Room for what pooled receives under way may bring.
    private(set) var expected = 0
    /// Bytes of peers that wait for users.
    private(set) var waiting = 0
    /// Bytes that each session is guaranteed, and how much of that all sessions have not used.
    private let guarantee: Int
    private var unclaimed = 0
    /// Bytes freed since readers were last woken.
    private var freed = 0

    init(_ configuration: Configuration) {
        sessionMaximum = configuration.bufferByteCount
        total = configuration.memoryByteCount / 2
        guarantee = min(sessionMaximum, total / 4 / (configuration.role == .server ? configuration.maximumSessions : 1))
    }

    private var free: Int { total - held - armed - expected - unclaimed }

    /// The session begins.
    func open(_ account: inout Account) {
        unclaimed += guarantee
        account.guaranteed = guarantee
        unclaimed -= min(account.held, guarantee)
    }

    /// It is over; bytes that it still holds are released later.
    func close(_ account: inout Account) {
        unclaimed -= max(0, account.guaranteed - account.held)
        account.guaranteed = 0
    }

    /// The only way in which the count of an account changes.
    @inline(__always)
    private func change(_ account: inout Account, by count: Int) {
        let before = account.held
        account.held += count
        guard before < account.guaranteed || account.held < account.guaranteed else { return }
        unclaimed &-= min(account.held, account.guaranteed) &- min(before, account.guaranteed)
    }

    // MARK: Reading users

    /// Hardly anything is held: a receive of one buffer need not be judged.
    func isRoomy(_ account: Account) -> Bool {
        account.held + account.expected < sessionMaximum / 16 && held + armed + expected + unclaimed < total / 2
    }

    /// What users of the session may bring now, all together. Not above 0: they wait until something is released.
    func room(_ account: Account) -> Int {
        let own = sessionMaximum - account.held - account.expected
        return min(own, max(account.guaranteed - account.held, min(free, 4 * free - account.held)))
    }

    /// What one of its `users` may bring now, of whom `inbound` bytes have no place yet, and whose stream has `credit`. Not above 0: it
    /// waits until some have. `isHealthy`: the carrier works, so more than a little would only add delay; and what credit does not
    /// cover only waits for it.
    func share(_ account: Account, _ inbound: Int, credit: Int, users: Int, isHealthy: Bool) -> Int {
        // Summed up over users that come one after the other this grows with the logarithm of their number.
        let part = sessionMaximum / 16 / max(1, users)
        let least = max(Policy.inboundLeast, min(Policy.poolByteCount, part))
        let most: Int
        if isHealthy {
            let ahead = min(credit, Policy.inboundWhileAttached) + min(Policy.inboundAheadOfCredit, max(part, Policy.inboundLeast))
            most = min(Policy.inboundWhileAttached, (sessionMaximum / 2 - account.unplaced) / 4, ahead)
        } else {
            most = max(4 * min(free, sessionMaximum - account.held), account.guaranteed)
        }
        return max(least, most) - inbound
    }

    /// A pooled receive may be started: what it may bring is set apart. Of all room at most a quarter is for these, so that idle
    /// users do not keep the busy ones from reading.
    func expect(_ count: Int, _ account: inout Account) -> Bool {
        guard account.expected + count <= sessionMaximum / 4, expected + count <= total / 4 else { return false }
        account.expected += count
        expected += count
        return true
    }

    func unexpect(_ count: Int, _ account: inout Account) {
        precondition(count <= account.expected, "a receive ended that was not expected")
        account.expected -= count
        expected -= count
    }

    // MARK: Bytes towards peers

    /// Bytes that have their place.
    func hold(_ count: Int, _ account: inout Account) {
        change(&account, by: count)
        held += count
    }

    /// Bytes of a user that have none yet.
    func holdUnplaced(_ count: Int, _ account: inout Account) {
        account.unplaced += count
        hold(count, &account)
    }

    /// They got their place.
    func place(_ count: Int, _ account: inout Account) {
        precondition(count <= account.unplaced, "bytes were placed that did not wait")
        account.unplaced -= count
    }

    func release(_ count: Int, _ account: inout Account) {
        precondition(count >= 0 && count <= account.held, "released bytes that were not held")
        change(&account, by: -count)
        account.left += UInt64(count)
        held -= count
        freed += count
    }

    /// Bytes of a user that never get a place.
    func releaseUnplaced(_ count: Int, _ account: inout Account) {
        place(count, &account)
        release(count, &account)
    }

    /// The session is over, and nothing reads its bytes any more.
    func releaseAll(_ account: inout Account) {
        account.unplaced = 0
        release(account.held, &account)
    }

    /// Bytes without a place change their session.
    func move(_ count: Int, from old: inout Account, to new: inout Account) {
        precondition(count <= old.unplaced, "moved bytes that were not held")
        change(&old, by: -count)
        change(&new, by: count)
        old.unplaced -= count
        new.unplaced += count
    }

    // MARK: The rest

    var accountedByteCount: Int { held + waiting + armed }

    func arm(_ count: Int) { armed += count }

    func disarm(_ count: Int) {
        precondition(count <= armed, "disarmed what was not armed")
        armed -= count
        freed += count
    }

    func addPending(_ count: Int) { waiting += count }

    func removePending(_ count: Int) {
        precondition(count <= waiting, "delivered bytes that did not wait")
        waiting -= count
    }

    /// True when enough has been freed for readers of any session to look again.
    func takeWakeReaders() -> Bool {
        guard freed >= Policy.wakeByteCount || freed > 0 && held == 0 else { return false }
        freed = 0
        return true
    }
}
