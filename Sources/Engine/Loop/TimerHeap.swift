/// Deadlines of many, as a binary heap of (deadline, token). Cancelling is the owner's: a token that means nothing any
/// more is ignored when it comes up, so a timer costs logarithmic time once and no bookkeeping.
public struct TimerHeap: ~Copyable {
    private var entries: [(deadline: UInt64, token: Token)] = []

    public init() {}

    public var count: Int { entries.count }

    /// Nanoseconds on `Clock`; nil when there is none.
    public var nextDeadline: UInt64? { entries.first?.deadline }

    public mutating func add(_ token: Token, at deadline: UInt64) {
        entries.append((deadline, token))
        var child = entries.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard entries[child].deadline < entries[parent].deadline else { break }
            entries.swapAt(child, parent)
            child = parent
        }
    }

    /// The oldest timer whose deadline has passed.
    public mutating func takeExpired(now: UInt64) -> Token? {
        guard let first = entries.first, first.deadline <= now else { return nil }
        let last = entries.removeLast()
        guard !entries.isEmpty else { return first.token }
        entries[0] = last
        var parent = 0
        while true {
            let left = parent * 2 + 1
            guard left < entries.count else { break }
            let right = left + 1
            let child = right < entries.count && entries[right].deadline < entries[left].deadline ? right : left
            guard entries[child].deadline < entries[parent].deadline else { break }
            entries.swapAt(child, parent)
            parent = child
        }
        return first.token
    }
}
