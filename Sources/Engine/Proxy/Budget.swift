/// The one who counts bytes: what all sessions hold for their peers, what is armed for receives, what waits for users.
///
/// Half of `-memory` is for bytes towards peers, half for bytes that peers were promised room for (the registry grants
/// those). A session may hold `-buffer`, and four times what is left of all: one can use most of it, and a newcomer always
/// finds some (dynamic threshold, Choudhury & Hahne 1998). Among hundreds that take what they can that is next to nothing, so each
/// is sure of a little besides: a quarter of the whole is for that.
final class Budget {
    /// A session's share of the count. Only the budget changes it.
    struct Account {
        fileprivate(set) var held = 0
        /// It may hold so much whatever the others hold.
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
    /// Bytes of peers that wait for users.
    private(set) var waiting = 0
    /// What one session is sure of, and what those that there are have not used of it.
    private let guarantee: Int
    private var unclaimed = 0
    /// Bytes freed since somebody was last woken.
    private var freed = 0

    init(_ configuration: Configuration) {
        sessionMaximum = configuration.bufferByteCount
        total = configuration.memoryByteCount / 2
        guarantee = min(sessionMaximum, total / 4 / (configuration.role == .server ? configuration.maximumSessions : 1))
    }

    private var free: Int { total - held - armed - unclaimed }

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

    /// Whether a user of the session may be read, of whom `inboundCount` bytes wait already. A full buffer means that tele
    /// stops reading. `isHealthy`: the carrier works, so more than a little would only add delay.
    func mayHold(_ account: Account, _ inboundCount: Int, isHealthy: Bool) -> Bool {
        guard account.held < sessionMaximum else { return false }
        let isSure = account.held < account.guaranteed
        guard isSure || free > 0 && account.held / 4 < free else { return false }
        let most = max(4 * min(free, sessionMaximum - account.held), isSure ? account.guaranteed : 0)
        return inboundCount < (isHealthy ? min(most, Policy.inboundWhileAttached) : most)
    }

    func hold(_ count: Int, _ account: inout Account) {
        change(&account, by: count)
        held += count
    }

    func release(_ count: Int, _ account: inout Account) {
        precondition(count >= 0 && count <= account.held, "released bytes that were not held")
        change(&account, by: -count)
        account.left += UInt64(count)
        held -= count
        freed += count
    }

    /// Held bytes change their session.
    func move(_ count: Int, from old: inout Account, to new: inout Account) {
        precondition(count <= old.held, "moved bytes that were not held")
        change(&old, by: -count)
        change(&new, by: count)
    }

    func arm(_ count: Int) { armed += count }

    func disarm(_ count: Int) {
        precondition(count <= armed, "disarmed what was not armed")
        armed -= count
        freed += count
    }

    func keep(_ count: Int) { waiting += count }

    func deliver(_ count: Int) {
        precondition(count <= waiting, "delivered bytes that did not wait")
        waiting -= count
    }

    /// True when enough has been freed for readers of any session to look again.
    func takeNews() -> Bool {
        guard freed >= Policy.wakeByteCount || freed > 0 && held == 0 else { return false }
        freed = 0
        return true
    }
}
