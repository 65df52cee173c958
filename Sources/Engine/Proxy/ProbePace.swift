/// How fast fresh connects follow each other while the carrier is down or in doubt: 200 ms for the first ten minutes,
/// then gently slower, never slower than five seconds, never giving up. Jitter keeps a hundred clients apart.
struct ProbePace {
    private var startedAt: UInt64 = 0

    mutating func restart(now: UInt64) { startedAt = now }

    /// Nanoseconds until the next attempt.
    func next(now: UInt64, using generator: inout some RandomNumberGenerator) -> UInt64 {
        let minutes = (now - min(startedAt, now)) / 60_000_000_000
        let base: UInt64 = minutes < 10 ? 200_000_000 : minutes < 60 ? 1_000_000_000 : 5_000_000_000
        return base / 10 * 9 + UInt64.random(in: 0...(base / 10), using: &generator)
    }
}
