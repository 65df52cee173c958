import Testing
import Time
@testable import Control

/// Rule 4.26, with at most eight carriers.
@Suite struct CarrierCountTests {
    private func at(_ seconds: UInt64) -> Instant { Instant(nanoseconds: seconds * 1_000_000_000) }

    private func one(_ streams: Int, _ segments: UInt64, _ lost: UInt64) -> [UInt64: CarrierCount.Sample] {
        [1: .init(streams: streams, sent: .init(segments: segments, lost: lost), received: .init(segments: 0, lost: 0))]
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
        #expect(count.judge(one(3, 1000, 1), now: at(1)) == 1)
        #expect(count.judge(one(3, 2000, 2), now: at(2)) == 3)
        #expect(count.judge(one(50, 3000, 3), now: at(3)) == 8)
    }

    /// What a connection lost before there was a stream is not this stream's path; two intervals after its beginning it is known.
    /// protocol 4.26
    @Test func countingBeginsWithTheFirstStream() {
        var count = CarrierCount(maximum: 8)
        count.begin(one(3, 50_000, 5_000))
        #expect(count.judge(one(3, 51_000, 5_001), now: at(1)) == 1)
        #expect(count.judge(one(3, 52_000, 5_002), now: at(2)) == 3)
        count = CarrierCount(maximum: 8)
        count.begin(one(3, 50_000, 5_000))
        for second in 1..<10 as Range<UInt64> { #expect(count.judge(one(3, 50_000 + second * 1000, 5_000), now: at(second)) == 1) }
    }

    /// A window that has grown over a queue loses much at once: that is congestion.
    /// protocol 4.26
    @Test func oneBurstOfLossSaysNothing() {
        var count = CarrierCount(maximum: 8)
        var lost: UInt64 = 0
        for second in 0..<100 as Range<UInt64> {
            if second % 5 == 0 { lost += 500 }
            #expect(count.judge(one(9, second * 2000, lost), now: at(second)) == 1)
        }
    }

    /// A satellite's uplink carries acknowledgments, and loses some of them; the way down loses none.
    /// protocol 4.26
    @Test func aNarrowWayBackIsJudgedByItself() {
        var count = CarrierCount(maximum: 8)
        for second in 0..<100 as Range<UInt64> {
            let sample = CarrierCount.Sample(
                streams: 5, sent: .init(segments: second * 50, lost: second * 5), received: .init(segments: second * 2000, lost: 0))
            #expect(count.judge([1: sample], now: at(second)) == 1)
        }
        for second in 100..<102 as Range<UInt64> {
            let sample = CarrierCount.Sample(
                streams: 5, sent: .init(segments: second * 50, lost: second * 5), received: .init(segments: second * 2000, lost: (second - 98) * 20))
            #expect(count.judge([1: sample], now: at(second)) == (second == 101 ? 5 : 1))
        }
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

    /// Users who pause do not hide that loss goes on.
    /// protocol 4.26
    @Test func aQuietIntervalBetweenIsPassedOver() {
        var count = CarrierCount(maximum: 8)
        _ = count.judge(one(4, 0, 0), now: at(0))
        _ = count.judge(one(4, 1000, 10), now: at(1))
        #expect(count.judge(one(4, 1010, 10), now: at(2)) == 1)
        #expect(count.judge(one(4, 2010, 20), now: at(3)) == 4)
    }

    /// protocol 4.26
    @Test func theyAreKeptForTenMinutes() {
        var count = CarrierCount(maximum: 8)
        _ = count.judge(one(4, 0, 0), now: at(0))
        _ = count.judge(one(4, 1000, 10), now: at(1))
        #expect(count.judge(one(4, 2000, 20), now: at(2)) == 4)
        #expect(count.judge(one(0, 2000, 20), now: at(602)) == 4, "the next streams find them")
        #expect(count.judge(one(0, 2000, 20), now: at(603)) == 1)
    }

    /// A carrier that was made anew has lost nothing, whatever the one before had.
    /// protocol 4.26
    @Test func aNewCarrierCountsFromNothing() {
        var count = CarrierCount(maximum: 8)
        _ = count.judge(one(4, 5000, 50), now: at(0))
        for second in 1...5 as ClosedRange<UInt64> { #expect(count.judge(one(4, second * 900, 0), now: at(second)) == 1) }
    }
}
