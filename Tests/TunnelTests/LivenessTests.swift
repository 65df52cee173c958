import Testing
import Time
@testable import Tunnel

/// A carrier on virtual time, judged by what it answers.
@Suite struct LivenessTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (5_000 + milliseconds) * 1_000_000) }

    /// Time passes: true when the carrier is suspected now.
    private func judge(_ liveness: inout Liveness, _ milliseconds: UInt64) -> Bool {
        _ = liveness.comesInDoubt(now: at(milliseconds))
        return liveness.becomesSuspected(now: at(milliseconds))
    }

    private func attached() -> Liveness {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        liveness.pathMeasured(.milliseconds(10))
        liveness.answered(isDue: false, now: at(0))
        return liveness
    }

    /// Two round trips and 30 ms, told once in such a time, and only to who has another carrier; never beside doubt.
    /// protocol 8.10
    @Test func anAnswerIsLateLongBeforeItIsADoubt() {
        var liveness = attached()
        liveness.sent(now: at(100))
        #expect(liveness.lateAt == .never)
        liveness.isWatched = true
        #expect(liveness.lateAt == at(150))
        let early = liveness.comesLate(now: at(149))
        #expect(!early)
        let (first, again, later) = (liveness.comesLate(now: at(150)), liveness.comesLate(now: at(199)), liveness.comesLate(now: at(200)))
        #expect(first && !again && later)
        // The path brings something.
        liveness.heard(10, isActive: true, now: at(300))
        #expect(liveness.lateAt == at(350))
        liveness.answered(isDue: false, now: at(310))
        #expect(liveness.lateAt == .never)
        liveness.sent(now: at(1000))
        let isSuspected = judge(&liveness, 1850)
        #expect(isSuspected && liveness.lateAt == .never)
    }

    /// An ACK that was on its way when the path was cut, and comes now, answers nothing of what waits.
    /// protocol 8.7
    @Test func anOldAnswerEndsNoSuspicion() {
        var liveness = Liveness(now: at(0))
        liveness.answered(isDue: false, now: at(0))
        liveness.sent(now: at(100))
        #expect(judge(&liveness, 850) == true)
        liveness.heard(40, isActive: false, now: at(900))
        liveness.answered(isDue: true, isFresh: false, now: at(900))
        #expect(liveness.isSuspected)
        liveness.answered(isDue: false, isFresh: true, now: at(950))
        #expect(!liveness.isSuspected)
    }

    /// protocol 8.1, 8.2
    @Test func silenceWhereAnAnswerIsDueIsSuspicious() {
        var liveness = attached()
        liveness.sent(now: at(100))
        #expect(liveness.suspicionAt == at(850))
        #expect(judge(&liveness, 849) == false)
        #expect(judge(&liveness, 850) == true)
        #expect(judge(&liveness, 851) == false)
        // The peer's own bytes, sent again after an outage, say nothing of ours.
        liveness.heard(10, isActive: true, now: at(900))
        #expect(liveness.isSuspected)
        liveness.answered(isDue: false, now: at(950))
        #expect(!liveness.isSuspected)
    }

    /// An outage that ended by itself: the next one is probed as soon as the first, and an answer in time makes up for the late one.
    /// protocol 8.7
    @Test func aLateAnswerIsNoRoundTrip() {
        var liveness = attached()
        liveness.sent(now: at(100))
        #expect(judge(&liveness, 850) == true)
        liveness.answered(isDue: false, now: at(2350))
        #expect(liveness.roundTrips.usual == .milliseconds(10))
        liveness.sent(now: at(3000))
        #expect(liveness.doubtAt == at(3750))
        #expect(liveness.suspicionAt == at(8000))
        liveness.answered(isDue: false, now: at(3010))
        liveness.sent(now: at(4000))
        #expect(liveness.doubtAt == at(4750))
        #expect(liveness.suspicionAt == at(4750))
    }

    /// protocol 8.7
    @Test func aLatePongIsNoRoundTrip() {
        var liveness = attached()
        let token = liveness.nextPing(now: at(0))
        #expect(judge(&liveness, 750) == true)
        liveness.receivePong(token, isDue: false, now: at(10_000))
        #expect(liveness.roundTrips.usual == .milliseconds(10))
        #expect(liveness.roundTrips.minimum == .milliseconds(10))
    }

    /// Every answer is late: a path that is slow. It is probed each time, and suspected once.
    @Test func aPathThatBecomesSlowIsSuspectedOnce() {
        var liveness = attached()
        var suspicions = 0, doubts = 0
        for step in 0..<10 as Range<UInt64> {
            liveness.sent(now: at(step * 5000))
            for tenth in 1..<20 as Range<UInt64> {
                if liveness.comesInDoubt(now: at(step * 5000 + tenth * 100)) { doubts += 1 }
                if liveness.becomesSuspected(now: at(step * 5000 + tenth * 100)) { suspicions += 1 }
            }
            liveness.answered(isDue: false, now: at(step * 5000 + 2000))
        }
        #expect(doubts == 10)
        #expect(suspicions == 1)
    }

    /// protocol 8.2, 8.6
    @Test func aProbeThatIsAnsweredMakesDoubtSuspicion() {
        var liveness = attached()
        liveness.sent(now: at(100))
        #expect(judge(&liveness, 850) == true)
        liveness.answered(isDue: false, now: at(1500))
        liveness.sent(now: at(2000))
        #expect(judge(&liveness, 2750) == false)
        #expect(liveness.isInDoubt)
        liveness.suspect()
        #expect(liveness.isSuspected)
        liveness.answered(isDue: false, now: at(2760))
        #expect(!liveness.isSuspected && !liveness.isInDoubt)
    }

    /// Events come in storms; each asks again, and none may take the answer to the last one away.
    @Test func aStormOfEventsDoesNotMakeAnAnswerLate() {
        var liveness = attached()
        var token: UInt64?
        for event in 0..<40 as Range<UInt64> {
            let now = at(1000 + event * 50)
            liveness.doubt(now: now)
            if liveness.owesPing(now: now) { token = liveness.nextPing(now: now) }
            #expect(liveness.comesInDoubt(now: now) == false, "after \(event) events")
            if event % 3 == 2, let asked = token {
                liveness.heard(3, isActive: false, now: now)
                liveness.receivePong(asked, isDue: false, now: now)
                token = nil
            }
        }
    }

    /// Stopped for five seconds: the answer had come long ago, and the next outage is noticed as soon as any.
    /// protocol 8.8
    @Test func ownSleepIsNotASlowPath() {
        var liveness = attached()
        liveness.sent(now: at(100))
        #expect(judge(&liveness, 5000) == true)
        liveness.answered(isDue: false, now: at(5001))
        liveness.sent(now: at(6000))
        #expect(liveness.suspicionAt == at(6750))
    }

    /// protocol 8.4
    @Test func aFreshCarrierOwesAnAnswer() {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        #expect(liveness.suspicionAt == at(750))
    }

    /// protocol 8.7
    @Test func anAnswerEndsTheWait() {
        var liveness = attached()
        liveness.sent(now: at(100))
        liveness.heard(10, isActive: false, now: at(120))
        liveness.answered(isDue: false, now: at(120))
        #expect(liveness.suspicionAt == .never)
    }

    /// Client to server is swallowed, server to client flows in little records.
    /// protocol 8.2
    @Test func aTrickleThatAnswersNothingIsSuspicious() {
        var liveness = attached()
        liveness.sent(now: at(0))
        for record in 1...20 as ClosedRange<UInt64> {
            liveness.heard(100, isActive: true, now: at(record * 40))
            if judge(&liveness, record * 40) { break }
        }
        #expect(liveness.isSuspected)
        // More of the same says nothing; the answer does.
        liveness.heard(100, isActive: true, now: at(900))
        #expect(liveness.isSuspected)
        liveness.answered(isDue: false, now: at(901))
        #expect(!liveness.isSuspected)
    }

    /// protocol 8.2
    @Test func aFloodThatAnswersNothingIsSuspiciousWithinASecond() {
        var liveness = attached()
        liveness.sent(now: at(0))
        for tenth in 1...10 as ClosedRange<UInt64> { liveness.heard(2 << 20, isActive: true, now: at(tenth * 80)) }
        #expect(judge(&liveness, 800) == true)
    }

    /// Over a satellite the answer may be lost several times in a row, among the acknowledgments that fill the uplink; the carrier is not.
    /// protocol 8.2
    @Test func onAFarPathAFloodExcusesItsSenderForLong() {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        liveness.pathMeasured(.milliseconds(600))
        liveness.answered(isDue: false, now: at(0))
        liveness.sent(now: at(0))
        for half in 1...24 as ClosedRange<UInt64> {
            liveness.heard(1 << 20, isActive: true, now: at(half * 500))
            #expect(judge(&liveness, half * 500 - 1) == false, "after \(half) halves of a second")
        }
        #expect(judge(&liveness, 12_000) == true)
    }

    /// A slow line that is full of the peer's bytes: its acknowledgment stands behind them, and that is no outage.
    @Test func anAcknowledgmentBehindTheBulkOfASlowLineIsWaitedFor() {
        var liveness = attached()
        liveness.sent(now: at(0))
        for tenth in 1...40 as ClosedRange<UInt64> {  // 1 Mbit/s.
            liveness.heard(12_500, isActive: true, now: at(tenth * 100))
            #expect(judge(&liveness, tenth * 100) == false, "after \(tenth) tenths of a second")
        }
    }

    /// The bytes come at first, then nothing at all.
    /// protocol 8.2
    @Test func silenceBehindAStreamIsJudgedFromItsLastByte() {
        var liveness = attached()
        liveness.sent(now: at(0))
        for tenth in 1...5 as ClosedRange<UInt64> { liveness.heard(50_000, isActive: true, now: at(tenth * 100)) }
        #expect(liveness.suspicionAt == at(1250))
        #expect(judge(&liveness, 1250) == true)
    }

    /// A flood whose sender has used its credit up, and pings.
    @Test func aFloodThatBecomesATrickleIsSuspicious() {
        var liveness = attached()
        liveness.sent(now: at(0))
        for tenth in 1...5 as ClosedRange<UInt64> { liveness.heard(1 << 20, isActive: true, now: at(tenth * 20)) }
        for quarter in 1...2 as ClosedRange<UInt64> { liveness.heard(10, isActive: false, now: at(100 + quarter * 250)) }
        #expect(judge(&liveness, 850) == true)
    }

    /// A notebook slept for a night with an answer due: that was no round trip.
    /// protocol 8.8
    @Test func sleepDoesNotMakeSuspicionSlow() {
        var liveness = attached()
        let token = liveness.nextPing(now: at(0))
        _ = judge(&liveness, 1000)
        liveness.heard(10, isActive: true, now: at(28_800_000))
        liveness.receivePong(token, isDue: false, now: at(28_800_001))
        liveness.sent(now: at(28_800_100))
        #expect(liveness.suspicionAt <= at(28_805_100))
    }

    /// TCP's own handshake took four seconds: an answer may take six.
    @Test func aLongPathHasItsTime() {
        var liveness = attached()
        liveness.pathMeasured(.seconds(4))
        liveness.sent(now: at(0))
        #expect(liveness.suspicionAt == at(6000))
    }

    /// protocol 8.5
    @Test func aQueueThatGrowsIsLearnedAtOnce() {
        var liveness = attached()
        let token = liveness.nextPing(now: at(0))
        liveness.receivePong(token, isDue: false, now: at(400))
        liveness.sent(now: at(500))
        #expect(liveness.suspicionAt >= at(500 + 800))
    }

    @Test func patienceAndDoubt() {
        var liveness = attached()
        liveness.sent(now: at(0))
        liveness.bePatient(until: at(2000), roundTrip: .milliseconds(50))
        #expect(liveness.suspicionAt == at(2000))
        liveness.doubt(now: at(1000))
        #expect(liveness.doubtAt == at(1200))
        #expect(liveness.owesPing(now: at(1000)))
    }

    /// Its kernel acknowledges everything meanwhile, so nobody doubts the carrier; but the next outage is noticed as ever (protocol 8.5).
    /// protocol 8.5
    @Test func aPeerThatStoodStillTeachesNoPatience() {
        var liveness = attached()
        liveness.pathMeasured(.milliseconds(2))
        let token = liveness.nextPing(now: at(0))
        for moment in stride(from: 750, through: 9_750, by: 250) as StrideThrough<UInt64> {
            liveness.bePatient(until: at(moment + 250), roundTrip: .milliseconds(2))
        }
        liveness.receivePong(token, isDue: false, now: at(10_000))
        #expect(liveness.roundTrips.usual <= .milliseconds(10))
        liveness.sent(now: at(11_000))
        #expect(liveness.doubtAt <= at(11_800))
    }

    /// A path whose queue grows is learned although TCP explained the silence.
    /// protocol 8.5
    @Test func aQueueThatTCPSeesIsLearned() {
        var liveness = attached()
        let token = liveness.nextPing(now: at(0))
        liveness.bePatient(until: at(1500), roundTrip: .milliseconds(1100))
        liveness.receivePong(token, isDue: false, now: at(1400))
        #expect(liveness.roundTrips.usual >= .milliseconds(700))
    }

    /// The other side's clock differs by anything; what counts is how the delay of its PINGs changes (protocol 8.3).
    /// protocol 8.3
    @Test(arguments: [0, 5, 1 << 27, 1 << 28 - 3] as [UInt64]) func aQueueOnTheWayHereShowsInThePeersPings(_ offset: UInt64) {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        func ping(_ sent: UInt64, late: UInt64) {
            liveness.heardPing((offset + sent) & (1 << 28 - 1) | 1 << 29, now: at(sent + late))
        }
        ping(1000, late: 300)
        #expect(liveness.inboundWait(now: at(1300)) == .zero)
        ping(2000, late: 1100)
        #expect(liveness.inboundWait(now: at(3100)) == .milliseconds(800))
        #expect(liveness.inboundWait(now: at(9000)) == .zero, "it is old")
        // A quicker one than all before is the new least.
        ping(4000, late: 280)
        #expect(liveness.inboundWait(now: at(4280)) == .zero)
        ping(5000, late: 380)
        #expect(liveness.inboundWait(now: at(5380)) == .milliseconds(100))
        // Behind bulk it says nothing; and neither does a number that is no clock.
        liveness.heard(10 << 20, isActive: true, now: at(6000))
        ping(6000, late: 900)
        #expect(liveness.inboundWait(now: at(6900)) == .zero)
        liveness.heardPing(17, now: at(7000))
        #expect(liveness.inboundWait(now: at(7000)) == .zero)
    }

    /// A PING that was lost twice comes as late as if a clock had stood still. The next one in time shows that none did.
    /// protocol 8.3
    @Test func aQueueThatLosesPingsIsNoClock() {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        func ping(_ sent: UInt64, late: UInt64) { liveness.heardPing(sent & (1 << 28 - 1) | 1 << 29, now: at(sent + late)) }
        ping(1000, late: 300)
        ping(2000, late: 3300)
        ping(5500, late: 3300)
        #expect(liveness.inboundWait(now: at(8800)) == .zero, "a clock, as it seems")
        ping(9000, late: 1300)
        // The clocks may differ by a little more with time.
        #expect(liveness.inboundWait(now: at(10_300)) > .milliseconds(990) && liveness.inboundWait(now: at(10_300)) <= .milliseconds(1000))
    }

    /// What a full uplink loses is sent again, and comes late by differing times, for long: no clock stood still.
    /// protocol 8.3
    @Test func lateByDifferingTimesIsNoClock() {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        liveness.pathMeasured(.milliseconds(600))
        func ping(_ sent: UInt64, late: UInt64) { liveness.heardPing(sent & (1 << 28 - 1) | 1 << 29, now: at(sent + late)) }
        ping(1000, late: 300)
        for (step, late) in [2300, 4300, 3300, 6300, 2900, 5100].enumerated() {
            ping(4000 + UInt64(step) * 5000, late: UInt64(late))
            #expect(liveness.inboundWait(now: at(4000 + UInt64(step) * 5000 + UInt64(late))) >= .milliseconds(1900))
        }
        // The same for all: a clock.
        for step in 0..<5 as Range<UInt64> { ping(40_000 + step * 5000, late: 8300 + step) }
        #expect(liveness.inboundWait(now: at(68_304)) <= .milliseconds(10))
    }

    /// PINGs come seldom through a full uplink of a satellite, and one of them may be lucky.
    /// protocol 8.3
    @Test func onAFarPathTheLongestWaitOfLateCounts() {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        liveness.pathMeasured(.milliseconds(600))
        func ping(_ sent: UInt64, late: UInt64) { liveness.heardPing(sent & (1 << 28 - 1) | 1 << 29, now: at(sent + late)) }
        ping(1000, late: 300)
        ping(2000, late: 1300)
        ping(4000, late: 310)
        #expect(liveness.inboundWait(now: at(4310)) == .milliseconds(1000))
        #expect(liveness.inboundWait(now: at(15_300)) == .milliseconds(1000))
        #expect(liveness.inboundWait(now: at(15_301)) > .seconds(60), "nobody knows: PINGs are lost")
        ping(16_000, late: 310)
        #expect(liveness.inboundWait(now: at(16_310)) <= .milliseconds(10))
    }

    /// Clocks drift apart for days, and a paused virtual machine's stands still: neither is an outage that goes on for ever.
    /// protocol 8.3
    @Test func aClockThatDiffersIsNoOutage() {
        var liveness = Liveness(now: at(0))
        liveness.carrierAttached(now: at(0))
        func ping(_ sent: UInt64, late: UInt64) { liveness.heardPing(sent & (1 << 28 - 1) | 1 << 29, now: at(sent + late)) }
        for step in 0..<60_480 as Range<UInt64> { ping(step * 10_000, late: 20 + step * 10_000 / 10_000) }  // 100 ppm for a week.
        #expect(liveness.takeInboundOutage() == .zero)
        var told = 0
        for step in 60_480..<60_580 as Range<UInt64> {
            ping(step * 10_000, late: 20 + 60_480 + 30_000)
            if liveness.takeInboundOutage() > .zero { told += 1 }
        }
        #expect(told == 1, "a clock that stood still is told \(told) times")
    }
}
