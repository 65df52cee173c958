import Testing
import Time

@testable import Control

/// When there is a standby, and when it is used.
@Suite struct StandbyPlanTests {
    private func at(_ seconds: Double) -> Instant { Instant(nanoseconds: UInt64(seconds * 1e9)) }

    /// protocol 4.27
    @Test func failuresSlowTheAttemptsDown() {
        var plan = StandbyPlan()
        #expect(plan.pausedUntil <= at(0))
        var pauses: [Double] = []
        for _ in 0..<8 {
            plan.failed(now: at(100))
            pauses.append(Double(plan.pausedUntil.since(at(100)).nanoseconds) / 1e9)
        }
        #expect(pauses == [1, 2, 4, 8, 16, 30, 30, 30])
        plan.becameReady(now: at(200))
        plan.failed(now: at(300))
        #expect(plan.pausedUntil == at(301), "one that was ready was no failure")
    }

    /// protocol 4.27
    @Test func aNetworkThatChangedIsTriedAtOnce() {
        var plan = StandbyPlan()
        for _ in 0..<4 { plan.failed(now: at(100)) }
        plan.networkChanged()
        #expect(plan.pausedUntil <= at(100))
        plan.failed(now: at(100))
        #expect(plan.pausedUntil == at(101))
    }

    /// protocol 4.27
    @Test func aServerThatRefusesIsAskedSeldom() {
        var plan = StandbyPlan()
        plan.wasRefused(now: at(100))
        #expect(plan.pausedUntil == at(700))
    }

    /// protocol 4.27
    @Test func theOtherInterfacesAreTriedInTurn() {
        var plan = StandbyPlan()
        var tried: [Int] = []
        for _ in 0..<5 {
            tried.append(plan.choice(among: 3))
            plan.failed(now: at(1))
        }
        #expect(tried == [0, 1, 2, 0, 1])
    }

    /// protocol 4.27
    @Test func thePreferredPathIsTakenAgainLaterTheMoreOftenItWasLeft() {
        var plan = StandbyPlan()
        plan.becameReady(now: at(50))
        let first = plan.returnAt(now: at(50))
        #expect(first == at(60), "it was never left")
        var waits: [Double] = []
        for step in 0..<8 {
            plan.departed(now: at(100 + Double(step)))
            plan.becameReady(now: at(110))
            waits.append(Double(plan.returnAt(now: at(110)).since(at(110)).nanoseconds) / 1e9)
        }
        #expect(waits == [10, 20, 40, 80, 160, 320, 600, 600])
        plan.becameReady(now: at(1000))
        let later = plan.returnAt(now: at(1000))
        #expect(later == at(1010), "that was long ago")
    }

    /// protocol 8.10
    @Test func aPathThatIsSlowNowAndThenIsNotLeftAgainAndAgain() {
        var plan = StandbyPlan()
        let early = (0..<5).map { step in plan.mayHurry(now: at(Double(step))) }
        #expect(early == [true, true, true, false, false])
        // The first of the three is forgotten.
        let late = (0..<2).map { _ in plan.mayHurry(now: at(10.5)) }
        #expect(late == [true, false])
    }
}
