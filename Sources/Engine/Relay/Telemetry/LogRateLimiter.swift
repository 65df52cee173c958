import Control
import Time
import Tunnel

/// How often lines of one kind are written: some at once, then one a second. Who knocks a thousand times a second, and an origin that is
/// gone, fill nobody's disk. All are counted (`Counters`).
struct LogRateLimiter {
    enum Verdict: Equatable {
        /// `leftOut`: so many of its kind were not written since the last one. `isLast`: nor will the next be, if it comes soon.
        case write(leftOut: Int, isLast: Bool)
        case leaveOut
    }

    private struct Kind {
        var bucket = TokenBucket(burst: Policy.linesAtOnce, perSecond: Policy.linesPerSecond)
        var leftOut = 0
    }

    /// By their words, of which there are as many as `Event` has.
    private var kinds: [String: Kind] = [:]

    mutating func judge(_ words: String, now: Instant) -> Verdict {
        var kind = kinds[words] ?? Kind()
        defer { kinds[words] = kind }
        guard kind.bucket.take(now: now) else {
            kind.leftOut += 1
            return .leaveOut
        }
        var next = kind.bucket
        defer { kind.leftOut = 0 }
        return .write(leftOut: kind.leftOut, isLast: !next.take(now: now))
    }
}
