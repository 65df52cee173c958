import Control
import Testing
import Time
import Tunnel

@Suite struct BacklogAgeTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: 1_000_000_000 + milliseconds * 1_000_000) }

    @Test func nothingWaitsAtFirst() {
        var age = BacklogAge()
        age.note(entered: 5, left: 5, now: at(0))
        #expect(age.since == nil)
    }

    @Test func theOldestCountsAndLeavesFirst() {
        var age = BacklogAge()
        age.note(entered: 10, left: 0, now: at(0))
        age.note(entered: 20, left: 0, now: at(50))
        age.note(entered: 30, left: 0, now: at(500))
        #expect(age.since == at(0))
        age.note(entered: 30, left: 19, now: at(600))
        #expect(age.since == at(0), "one byte of the first step waits still")
        age.note(entered: 30, left: 20, now: at(700))
        #expect(age.since == at(500))
        age.note(entered: 30, left: 30, now: at(800))
        #expect(age.since == nil)
    }

    /// Two hours of a byte each 10 ms: bounded, and never younger than it is, nor older by more than a step.
    @Test func aLongBacklogStaysNearTheTruth() {
        var age = BacklogAge()
        for count in 1...UInt64(720_000) { age.note(entered: count, left: 0, now: at(count * 10)) }
        #expect(age.since == at(10))
        // Drains: the byte at `left` came at (left + 1) * 10 ms.
        for left in stride(from: UInt64(0), to: 720_000, by: 1000) {
            age.note(entered: 720_000, left: left, now: at(7_200_001))
            let truth = at((left + 1) * 10)
            guard let since = age.since else { return #expect(Bool(false), "bytes wait") }
            #expect(since <= truth && truth.since(since) < .seconds(7200 / 16), "\(left)")
        }
    }
}
