import Testing
import Time
import Tunnel
@testable import Control

/// The window over a line of a given rate, with a queue as long as it takes, in steps of a millisecond. TCP is anything: it sends
/// all that it is given.
@Suite struct PathWindowTests {
    private struct Line {
        /// Bytes a millisecond.
        var rate: Double
        var minimum = 30.0
        var window = PathWindow()
        var now = 1000.0
        /// Sent and not yet through the line's queue; then on the way for `minimum`.
        var queued = 0.0
        var arrivals: [(at: Double, bytes: Double)] = []
        var acknowledged = 0.0
        var smoothed = 30.0
        /// The queue of somebody else, in milliseconds.
        var foreign = 0.0
        /// Bytes a millisecond whose acknowledgments the way back carries; above that they wait there, a second at most, and then some
        /// are dropped, which costs nothing.
        var acknowledgeable = Double.infinity
        var acknowledgmentsWait = 0.0
        var told = 0.0
        var unheard: [(at: Double, bytes: Double)] = []
        var delays: [Double] = []
        var delivered = 0.0

        var held: Int { Int(queued + (arrivals + unheard).reduce(0) { $0 + $1.bytes }) }
        var instant: Instant { Instant(nanoseconds: UInt64(now * 1_000_000)) }

        /// `most`: what TCP takes unbounded; nil: a second's worth.
        mutating func run(_ milliseconds: Int, most: Double? = nil) {
            let most = most ?? rate * 1000
            delays.removeAll()
            delivered = 0
            for _ in 0..<milliseconds {
                now += 1
                var came = 0.0
                while let first = arrivals.first, first.at <= now {
                    came += first.bytes
                    delivered += first.bytes
                    arrivals.removeFirst()
                    unheard.append((now + acknowledgmentsWait, first.bytes))
                }
                acknowledgmentsWait = min(1000, max(0, acknowledgmentsWait + came / acknowledgeable - 1))
                while let first = unheard.first, first.at <= now {
                    acknowledged += first.bytes
                    unheard.removeFirst()
                }
                let sent = min(queued, rate)
                queued -= sent
                if sent > 0 { arrivals.append((now + minimum + foreign, sent)) }
                let delay = queued / rate + foreign + acknowledgmentsWait
                delays.append(delay)
                smoothed += (minimum + delay - smoothed) / 8
                // The peer's PINGs tell, one a second.
                if Int(now) % 1000 == 0 { told = acknowledgmentsWait }
                if window.isSampleDue(now: instant) {
                    window.measured(
                        .init(
                            acknowledged: UInt64(acknowledged),
                            roundTrip: .microseconds(UInt64(smoothed * 1000)),
                            minimumRoundTrip: .microseconds(UInt64(min(minimum + told, smoothed) * 1000))), now: instant)
                }
                while Double(held) < most {
                    let room = window.room(.init(unacknowledged: held, unsent: 0, segments: 0, window: 1000), now: instant)
                    if room == 0 { break }
                    queued += min(Double(room), most - Double(held))
                }
            }
        }

        mutating func room(held: Int, unsent: Int, segments: Int, window segmentsAllowed: Int) -> Int {
            window.room(.init(unacknowledged: held, unsent: unsent, segments: segments, window: segmentsAllowed), now: instant)
        }

        var share: Double { delivered / (rate * Double(delays.count)) }
        var worst: Double { delays.sorted()[delays.count * 99 / 100] }
    }

    @Test(arguments: [1250.0, 6250, 125_000]) func aQueueIsNoLongerThanAFifthOfTheRoundTrip(rate: Double) {
        var line = Line(rate: rate)
        line.run(3000)
        line.run(5000)
        #expect(line.share > 0.95, "\(line.share) of the line")
        #expect(line.worst < 15, "\(line.worst) ms of queue")
    }

    @Test func aTenfoldRateIsFoundWithinAFewRoundTrips() {
        var line = Line(rate: 1250)
        line.run(5000)
        line.rate = 12_500
        line.run(400)
        line.run(300)
        #expect(line.share > 0.9, "\(line.share) of the line")
    }

    @Test func aTenthOfTheRateLeavesNoLongQueue() {
        var line = Line(rate: 12_500)
        line.run(5000)
        line.rate = 1250
        line.run(3000)
        line.run(2000)
        #expect(line.worst < 15, "\(line.worst) ms of queue")
        #expect(line.share > 0.9)
    }

    /// Nobody is bounded by a queue that is not his own: there it would only starve.
    @Test func aQueueOfSomebodyElseOpensTheWindow() {
        var line = Line(rate: 6250)
        line.run(3000)
        #expect(line.window.limit != nil)
        line.foreign = 100
        line.run(10_000)
        #expect(line.window.limit == nil)
    }

    /// A satellite: the way back is narrow, and acknowledgments wait there. To bound the window would leave the line idle.
    @Test func aQueueOfAcknowledgmentsDoesNotBoundTheRate() {
        var line = Line(rate: 1000, minimum: 600, smoothed: 600)
        line.acknowledgeable = 250
        line.run(8_000, most: 3_000_000)
        line.run(24_000, most: 3_000_000)
        #expect(line.share > 0.8, "\(line.share) of the line")
    }

    /// TCP sends less than the path holds, as when BBR measures the round trip: what waits for it can be reordered only here.
    @Test func whatTCPDoesNotSendIsNotPiledUp() throws {
        var line = Line(rate: 6250)
        line.run(3000)
        let limit = try #require(line.window.limit)
        #expect(line.room(held: limit / 2, unsent: 0, segments: 50, window: 50) > 0)
        #expect(line.room(held: limit / 2, unsent: 3000, segments: 40, window: 50) > 0)
        #expect(line.room(held: limit / 2, unsent: 3000, segments: 50, window: 50) == 0)
        #expect(line.room(held: limit / 2, unsent: limit / 4, segments: 40, window: 50) == 0)
    }

    /// Half of a tiny window is left to who comes next, but not for ever: a TCP that starts again after a loss must fill it.
    @Test func halfOfATinyWindowIsLeftFree() {
        var line = Line(rate: 6250)
        line.run(3000)
        #expect(line.room(held: 20_000, unsent: 0, segments: 4, window: 4) == 0)
        #expect(line.room(held: 20_000, unsent: 0, segments: 2, window: 4) == 0)
        #expect(line.room(held: 20_000, unsent: 0, segments: 1, window: 4) > 0)
        line.now += 301
        #expect(line.room(held: 20_000, unsent: 0, segments: 4, window: 4) > 0)
        #expect(line.room(held: 20_000, unsent: 0, segments: 9, window: 50) > 0)
        #expect(line.room(held: 20_000, unsent: 0, segments: 4, window: 4) == 0)
    }

    @Test func withoutAQueueItIsOpen() {
        var line = Line(rate: 6250)
        line.run(5000, most: 100_000)
        #expect(line.window.limit == nil)
        #expect(line.room(held: 1 << 30, unsent: 1 << 30, segments: 9, window: 9) == .max)
    }

    /// A spliced frame is worth half a millisecond of the line, and nothing where there is a queue, or nothing was measured.
    @Test func whatPassesIsKnownWhileItIsOpen() {
        var line = Line(rate: 100_000, minimum: 1)  // 0.8 Gbit/s.
        #expect(line.window.openWorth(.microseconds(500)) == 0)
        line.run(100, most: 150_000)
        #expect((20_000...50_000).contains(line.window.openWorth(.microseconds(500))))
        line.run(100, most: 2_000_000)
        #expect(line.window.limit != nil)
        #expect(line.window.openWorth(.microseconds(500)) == 0)
    }
}
