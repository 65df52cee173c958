import Control
import Testing
import Time
import Tunnel

@Suite struct CongestionChoiceTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: 1_000_000_000 + milliseconds * 1_000_000) }

    /// A sample each 50 ms: 100 segments, `lost` of them sent again.
    private struct Path {
        var choice = CongestionChoice()
        var time: UInt64 = 0
        var sent: UInt64 = 0
        var repeated: UInt64 = 0

        mutating func run(_ count: Int, isBounded: Bool, lost: UInt64 = 0) {
            for _ in 0..<count {
                time += 50
                sent += 100
                repeated += lost
                choice.measured(isBounded: isBounded, sent: sent, repeated: repeated, now: Instant(nanoseconds: 1_000_000_000 + time * 1_000_000))
            }
        }
    }

    @Test func aBoundedPathGetsCubic() {
        var path = Path()
        path.run(100, isBounded: false)
        #expect(path.choice.choice == .system)
        path.run(1, isBounded: true)
        #expect(path.choice.choice == .cubic)
        path.run(1000, isBounded: true)
        #expect(path.choice.choice == .cubic)
    }

    @Test func whatWasLostBeforeIsNotHeldAgainstIt() {
        var path = Path()
        path.run(15, isBounded: true, lost: 20)
        path.run(100, isBounded: true)
        #expect(path.choice.choice == .cubic)
    }

    /// Two of a hundred are lost, whatever is done: cubic is tried for a second or two, then after a minute, then after two.
    @Test func aLossyPathGoesBackAndIsTriedEverMoreRarely() {
        var path = Path()
        var underCubic = 0
        for _ in 0..<(20 * 600) {
            path.run(1, isBounded: true, lost: 2)
            if path.choice.choice == .cubic { underCubic += 1 }
        }
        #expect(underCubic > 20 && underCubic < 20 * 10, "of ten minutes \(underCubic / 20) s")
    }

    @Test func anOpenWindowGivesItBackAfterSeconds() {
        var path = Path()
        path.run(20, isBounded: true)
        path.run(80, isBounded: false)
        #expect(path.choice.choice == .cubic, "4 s")
        path.run(40, isBounded: false)
        #expect(path.choice.choice == .system)
    }

    /// The kernel's counts are 32 bits wide.
    @Test func countsThatWrapBeginAnew() {
        var choice = CongestionChoice()
        choice.measured(isBounded: true, sent: 4_294_966_000, repeated: 4_294_966_000, now: at(0))
        choice.measured(isBounded: true, sent: 4_294_967_000, repeated: 4_294_966_000, now: at(1200))
        choice.measured(isBounded: true, sent: 100, repeated: 5, now: at(1500))
        choice.measured(isBounded: true, sent: 400, repeated: 5, now: at(1800))
        #expect(choice.choice == .cubic)
    }
}
