import Testing
import Time
@testable import Tunnel

@Suite struct TokenBucketTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (7_000 + milliseconds) * 1_000_000) }

    /// protocol 6.15
    @Test func aBurstAndThenSoManyASecond() {
        var bucket = TokenBucket(burst: 10, perSecond: 100)
        for _ in 0..<10 { #expect(bucket.take(now: at(0)) == true) }
        #expect(bucket.take(now: at(0)) == false)
        #expect(bucket.take(now: at(9)) == false)
        #expect(bucket.take(now: at(10)) == true)
        #expect(bucket.take(now: at(10)) == false)
        var taken = 0
        for millisecond in 10...1010 as ClosedRange<UInt64> where bucket.take(now: at(millisecond)) { taken += 1 }
        #expect((99...101).contains(taken))
    }

    @Test func itNeverHoldsMoreThanABurst() {
        var bucket = TokenBucket(burst: 3, perSecond: 1000)
        _ = bucket.take(now: at(0))
        var taken = 0
        while bucket.take(now: at(86_400_000)) { taken += 1 }
        #expect(taken == 3)
    }
}
