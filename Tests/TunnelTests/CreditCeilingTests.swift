import Testing
import Time
@testable import Tunnel

/// How far the window of one stream grows, and what a lower ceiling leaves of it.
@Suite struct CreditCeilingTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (1_000 + milliseconds) * 1_000_000) }

    /// protocol 7.5
    @Test func creditIsToldAtHalfAWindow() {
        var window = CreditWindow(initial: 128 << 10, now: at(0))
        #expect(window.consumed(to: 63 << 10, ceiling: 1 << 20, roundTrip: .milliseconds(1), now: at(5000)) == false)
        #expect(window.consumed(to: 64 << 10, ceiling: 1 << 20, roundTrip: .milliseconds(1), now: at(5000)) == true)
        #expect(window.limit == 128 << 10)
        #expect(window.tell() == (64 + 128) << 10)
    }

    /// protocol 7.5
    @Test func aFastUserDoublesItAndASlowOneDoesNot() {
        var window = CreditWindow(initial: 128 << 10, now: at(0))
        _ = window.consumed(to: 64 << 10, ceiling: 1 << 20, roundTrip: .milliseconds(100), now: at(5000))
        #expect(window.size == 128 << 10)
        _ = window.consumed(to: 192 << 10, ceiling: 1 << 20, roundTrip: .milliseconds(100), now: at(5100))
        #expect(window.size == 256 << 10)
    }

    /// It grows to the ceiling itself, not to the power of two below: half a window of 16 MiB is less than 1 Gbit/s and 100 ms hold.
    @Test func itGrowsToItsCeiling() {
        var window = CreditWindow(initial: 256 << 10, now: at(0))
        var consumed: UInt64 = 0
        for millisecond in 1...20 as ClosedRange<UInt64> {
            consumed = window.tell()
            _ = window.consumed(to: consumed, ceiling: 3_000_000, roundTrip: .milliseconds(100), now: at(millisecond))
        }
        #expect(window.size == 3_000_000)
    }

    /// protocol 7.1
    @Test func aLowCeilingNeverTakesBackWhatWasTold() {
        var window = CreditWindow(initial: 1 << 20, now: at(0))
        #expect(window.consumed(to: 1 << 19, ceiling: 512, roundTrip: .milliseconds(1), now: at(9000)) == false)
        #expect(window.tell() == 1 << 20)
        #expect(window.consumed(to: 1 << 20, ceiling: 512, roundTrip: .milliseconds(1), now: at(9000)) == true)
        #expect(window.tell() == (1 << 20) + 512)
    }
}
