import Tunnel

/// How often something may happen: a burst at once, then so many a second.
public struct TokenBucket: Sendable {
    private let capacity: UInt64
    private let perSecond: UInt64
    private var tokens: UInt64
    private var filledAt: Instant?

    public init(burst: Int, perSecond: Int) {
        capacity = UInt64(max(1, burst))
        self.perSecond = UInt64(max(1, perSecond))
        tokens = capacity
    }

    /// False: too often.
    public mutating func take(now: Instant) -> Bool {
        if tokens < capacity, let filledAt {
            let fresh = min(now.since(filledAt).nanoseconds, 1_000_000_000 * 3600) / 1_000 * perSecond / 1_000_000
            if fresh > 0 {
                tokens = min(capacity, tokens + fresh)
                self.filledAt = now
            }
        } else {
            filledAt = now
        }
        guard tokens > 0 else { return false }
        tokens -= 1
        return true
    }
}
