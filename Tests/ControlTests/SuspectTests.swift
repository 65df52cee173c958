import Control
import Testing

/// A session that makes its process crash is given up at the second time; kills, other sessions and time that has passed do not count.
@Suite struct SuspectTests {
    private struct Death {
        var session: UInt64
        /// Seconds.
        var at: Double
        var isCrash = true
    }

    /// Which of the deaths are a session's last.
    private func verdicts(_ deaths: [Death]) -> [Bool] {
        var suspect = Suspect()
        return deaths.map { suspect.blame($0.session, diedAt: UInt64($0.at * 1e9), hasCrashed: $0.isCrash) }
    }

    @Test func secondCrashInARowIsItsLast() {
        #expect(verdicts([Death(session: 7, at: 5), Death(session: 7, at: 15)]) == [false, true])
    }

    @Test func otherSessionsAndLongPausesBeginAnew() {
        #expect(verdicts([Death(session: 7, at: 1), Death(session: 8, at: 2), Death(session: 7, at: 3)]) == [false, false, false])
        #expect(verdicts([Death(session: 7, at: 1), Death(session: 7, at: 11.1)]) == [false, false])
    }

    @Test func workForNoSessionIsNobodysFault() {
        #expect(verdicts([Death(session: 0, at: 1), Death(session: 0, at: 2)]) == [false, false])
    }

    @Test func killsBlameNobody() {
        #expect(verdicts((1...5).map { Death(session: 7, at: Double($0), isCrash: false) }) == [false, false, false, false, false])
    }

    @Test func whoIsGivenUpStaysSoUntilAProcessLives() {
        // The process that would have done it was killed; another one crashed much later.
        let deaths = [
            Death(session: 7, at: 1), Death(session: 7, at: 2), Death(session: 7, at: 3, isCrash: false), Death(session: 7, at: 60),
            Death(session: 8, at: 61, isCrash: false),
        ]
        #expect(verdicts(deaths) == [false, true, true, true, false])
    }
}
