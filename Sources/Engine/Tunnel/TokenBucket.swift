/// A rate limit: a burst at once, then a number a second. Exact: fractions of a token are kept.
public struct TokenBucket: Sendable {
    /// One token, in the unit of `level`: nanoseconds times tokens a second.
    private static let token: UInt64 = 1_000_000_000
    private let capacity: UInt64
    private let perSecond: UInt64
    private var level: UInt64
    private var filledAt: Instant?

    /// Both are at least 1; `burst` at most 2^32, `perSecond` at most 2^20.
    public init(burst: Int, perSecond: Int) {
        capacity = UInt64(min(max(1, burst), 1 << 32)) * TokenBucket.token
        self.perSecond = UInt64(min(max(1, perSecond), 1 << 20))
        level = capacity
    }

    /// False: too often.
    public mutating func take(now: Instant) -> Bool {
        fill(now)
        guard level >= TokenBucket.token else { return false }
        level -= TokenBucket.token
        return true
    }

    /// When `take` next succeeds: `now` or later.
    public mutating func nextAt(now: Instant) -> Instant {
        fill(now)
        guard level < TokenBucket.token else { return now }
        return now + Interval(nanoseconds: (TokenBucket.token - level + perSecond - 1) / perSecond)
    }

    private mutating func fill(_ now: Instant) {
        // An hour fills any bucket that an hour can fill, and does not overflow.
        let elapsed = min(filledAt.map { now.since($0) } ?? .zero, .seconds(3600)).nanoseconds
        level = min(capacity, level + elapsed * perSecond)
        filledAt = max(filledAt ?? now, now)
    }
}
import Time
