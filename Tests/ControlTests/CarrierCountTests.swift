import Testing
import Time
@testable import Control

/// Rule 4.26, with at most eight carriers.
@Suite struct CarrierCountTests {
    private func at(_ seconds: UInt64) -> Instant { Instant(nanoseconds: seconds * 1_000_000_000) }

    private func one(_ streams: Int, _ segments: UInt64, _ lost: UInt64) -> [UInt32: CarrierCount.Sample] {
        [1: CarrierCount.Sample(streams: streams, segments: segments, lost: lost)]
    }

    /// protocol 4.26
    @Test func withoutLossOneIsEnough() {
        var count = CarrierCount(maximum: 8)
        for second in 0..<100 as Range<UInt64> { #expect(count.judge(one(50, second * 10_000, 0), now: at(second)) == 1) }
    }

    /// protocol 4.26
    @Test func withLossEachStreamHasOne() {
        var count = CarrierCount(maximum: 8)
        #expect(count.judge(one(3, 0, 0), now: at(0)) == 1)
        #expect(count.judge(one(3, 1000, 1), now: at(1)) == 3)
        #expect(count.judge(one(50, 2000, 2), now: at(2)) == 8)
    }

    /// protocol 4.26
    @Test func oneStreamHasOne() {
        var count = CarrierCount(maximum: 8)
        for second in 0..<10 as Range<UInt64> { #expect(count.judge(one(1, second * 1000, second * 50), now: at(second)) == 1) }
    }

    /// protocol 4.26
    @Test func littleSaysNothing() {
        var count = CarrierCount(maximum: 8)
        for second in 0..<10 as Range<UInt64> { #expect(count.judge(one(9, second * 99, second * 9), now: at(second)) == 1) }
        var rare = CarrierCount(maximum: 8)
        for second in 0..<10 as Range<UInt64> { #expect(rare.judge(one(9, second * 10_010, second * 10), now: at(second)) == 1) }
    }

    /// protocol 4.26
    @Test func theyAreKeptForTenMinutes() {
        var count = CarrierCount(maximum: 8)
        _ = count.judge(one(4, 0, 0), now: at(0))
        #expect(count.judge(one(4, 1000, 10), now: at(1)) == 4)
        #expect(count.judge(one(0, 1000, 10), now: at(601)) == 4, "the next streams find them")
        #expect(count.judge(one(0, 1000, 10), now: at(602)) == 1)
    }

    /// A carrier that was made anew has lost nothing, whatever the one before had.
    /// protocol 4.26
    @Test func aNewCarrierCountsFromNothing() {
        var count = CarrierCount(maximum: 8)
        _ = count.judge(one(4, 5000, 50), now: at(0))
        #expect(count.judge(one(4, 900, 0), now: at(1)) == 1)
        #expect(count.judge(one(4, 1900, 0), now: at(2)) == 1)
    }
}
