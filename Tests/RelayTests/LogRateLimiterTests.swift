import Testing
import Time
import Tunnel
@testable import Relay

@Suite struct LogRateLimiterTests {
    /// What a burst left out is told by the next line of its kind, however long that takes.
    @Test func tellsHowManyItLeftOut() {
        var pace = LogRateLimiter()
        let start = Instant(nanoseconds: 1_000_000_000)
        for number in 1...Policy.linesAtOnce {
            #expect(pace.judge("knock", now: start) == .write(leftOut: 0, isLast: number == Policy.linesAtOnce))
        }
        for _ in 0..<700 { #expect(pace.judge("knock", now: start) == .leaveOut) }
        let later = start + .milliseconds(1500)
        #expect(pace.judge("knock", now: later) == .write(leftOut: 700, isLast: true))
        #expect(pace.judge("knock", now: later) == .leaveOut)
        #expect(pace.judge("knock", now: later + .seconds(3600)) == .write(leftOut: 1, isLast: false))
    }

    @Test func kindsDoNotKeepEachOtherFromBeingTold() {
        var pace = LogRateLimiter()
        let now = Instant(nanoseconds: 1)
        for _ in 0..<1000 { _ = pace.judge("knock", now: now) }
        #expect(pace.judge("carrier lost", now: now) == .write(leftOut: 0, isLast: false))
    }

    /// However fast they come: in a minute no more than the burst and one a second.
    @Test func aMinuteOfThemIsBounded() {
        var pace = LogRateLimiter()
        var written = 0, leftOut = 0
        for millisecond in 0..<60_000 {
            guard case .write(let missing, _) = pace.judge("knock", now: Instant(nanoseconds: UInt64(millisecond) * 1_000_000)) else { continue }
            written += 1
            leftOut += missing
        }
        #expect(written <= Policy.linesAtOnce + 60 * Policy.linesPerSecond)
        #expect(written >= Policy.linesAtOnce + 58 * Policy.linesPerSecond)
        #expect(written + leftOut <= 60_000 && written + leftOut > 58_000)
    }
}
