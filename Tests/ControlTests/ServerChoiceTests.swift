import Testing
import Time
@testable import Control

/// Rule 4.25: three servers, of which the first is preferred, and a failover of ten seconds.
@Suite struct ServerChoiceTests {
    private let choice = ServerChoice(failover: .seconds(10))

    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: milliseconds * 1_000_000) }

    private func uplink(
        _ number: UInt32, rank: Int? = nil, down since: UInt64? = nil, reached isReached: Bool = true, precious isPrecious: Bool = false,
        forgotten end: UInt64? = nil
    ) -> ServerChoice.Uplink {
        ServerChoice.Uplink(
            number: number, rank: rank ?? Int(number) - 1, downSince: since.map(at), isReached: isReached, isPrecious: isPrecious,
            forgottenAt: end.map(at))
    }

    /// protocol 4.25
    @Test func oneThatWorksIsKept() {
        #expect(choice.judge([uplink(1)], current: 1, now: at(0)) == ServerChoice.Verdict(current: 1))
    }

    /// protocol 4.25
    @Test func aServerThatIsAwayIsWaitedFor() {
        let verdict = choice.judge([uplink(1, down: 1000)], current: 1, now: at(10_999))
        #expect(!verdict.wantsAnother && verdict.current == 1 && verdict.nextTimeout == at(11_000))
        #expect(choice.judge([uplink(1, down: 1000)], current: 1, now: at(11_000)).wantsAnother)
    }

    /// protocol 4.25
    @Test func aServerThatWasNeverReachedIsGivenASecond() {
        let never = uplink(1, down: 0, reached: false)
        #expect(choice.judge([never], current: 1, now: at(999)) == ServerChoice.Verdict(current: 1, nextTimeout: at(1000)))
        #expect(choice.judge([never], current: 1, now: at(1000)).wantsAnother)
        #expect(ServerChoice(failover: .zero).judge([uplink(1, down: 0)], current: 1, now: at(0)).wantsAnother)
    }

    /// The second is tried, and while it may still answer not the third.
    /// protocol 4.25
    @Test func theyAreTriedOneAfterTheOther() {
        let all = [uplink(1, down: 0), uplink(2, down: 10_000, reached: false)]
        #expect(!choice.judge(all, current: 1, now: at(10_500)).wantsAnother)
        #expect(choice.judge(all, current: 1, now: at(11_000)).wantsAnother)
    }

    /// protocol 4.25
    @Test func newUsersGoToTheOneThatWorks() {
        let verdict = choice.judge([uplink(1, down: 0, precious: true), uplink(2)], current: 1, now: at(10_000))
        #expect(verdict.current == 2 && verdict.abandoned == [1] && verdict.unneeded.isEmpty && !verdict.wantsAnother)
    }

    /// Users do not hop to a server that happens to be connected while the one that they belong to has just begun to be silent.
    /// protocol 4.25
    @Test func aShortSilenceChangesNothing() {
        let verdict = choice.judge([uplink(1, down: 5000), uplink(2, precious: true)], current: 1, now: at(6000))
        #expect(verdict.current == 1 && verdict.abandoned.isEmpty && verdict.unneeded.isEmpty)
        // But who is with the second, because the first was away, stays until it works.
        #expect(choice.judge([uplink(1, down: 5000), uplink(2)], current: 2, now: at(6000)).current == 2)
    }

    /// protocol 4.25
    @Test func thePreferredOneIsTakenAgainAsSoonAsItWorks() {
        let verdict = choice.judge([uplink(1), uplink(2, precious: true)], current: 2, now: at(0))
        #expect(verdict.current == 1 && verdict.abandoned.isEmpty && verdict.unneeded.isEmpty)
        #expect(verdict.nextTimeout == at(1000), "it is asked again whether the second is needed")
        #expect(choice.judge([uplink(1), uplink(2)], current: 1, now: at(0)).unneeded == [2])
    }

    /// Replicas of one name are as good as each other.
    /// protocol 4.25
    @Test func amongEqualsTheCurrentOneStays() {
        let both = [uplink(1, rank: 0, precious: true), uplink(2, rank: 0, precious: true)]
        #expect(choice.judge(both, current: 2, now: at(0)).current == 2)
        #expect(choice.judge([uplink(1, rank: 0), uplink(2, rank: 0)], current: 2, now: at(0)).unneeded == [1])
    }

    /// protocol 4.25
    @Test func betterOnesAreDialledOn() {
        let all = [uplink(1, down: 0, reached: false), uplink(2, down: 0), uplink(3), uplink(4, rank: 3, down: 0, reached: false)]
        #expect(choice.judge(all, current: 3, now: at(60_000)).unneeded == [4])
        // On one uplink each: an upgrade may have made several.
        #expect(choice.judge([uplink(5, rank: 0, down: 0, reached: false)] + all, current: 3, now: at(60_000)).unneeded == [5, 4])
    }

    /// The current server may have no room for all of them at once.
    /// protocol 4.25
    @Test func usersOfASilentServerAreMovedUntilNoneIsLeft() {
        let verdict = choice.judge([uplink(1, down: 0, precious: true), uplink(2)], current: 2, now: at(60_000))
        #expect(verdict.abandoned == [1] && verdict.nextTimeout == at(61_000))
    }

    /// protocol 4.25
    @Test func whatItsServerHasLetGoIsForgotten() {
        let all = [uplink(1, down: 0, precious: true, forgotten: 70_000), uplink(2)]
        #expect(choice.judge(all, current: 2, now: at(69_999)).forgotten.isEmpty)
        #expect(choice.judge(all, current: 2, now: at(69_999)).nextTimeout == at(70_000))
        #expect(choice.judge(all, current: 2, now: at(70_000)).forgotten == [1])
        // With one server, too; and who has nothing to lose loses nothing.
        #expect(choice.judge([uplink(1, down: 0, precious: true, forgotten: 70_000)], current: 1, now: at(70_000)).forgotten == [1])
        #expect(choice.judge([uplink(1, down: 0, forgotten: 70_000)], current: 1, now: at(70_000)).forgotten.isEmpty)
    }
}
