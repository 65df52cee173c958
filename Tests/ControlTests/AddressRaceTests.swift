import Testing
import Time
import Tunnel
@testable import Control

/// A race on virtual time: milliseconds since the start. Addresses are letters.
private struct Course: ~Copyable {
    var race: AddressRace<Character>

    init(_ addresses: String, isFixed: Bool = false) { race = AddressRace(Array(addresses), isFixed: isFixed) }

    static func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (1_000 + milliseconds) * 1_000_000) }

    mutating func next(_ milliseconds: UInt64) -> AddressRace<Character>.Step { race.next(now: Course.at(milliseconds)) }
    mutating func failed(_ milliseconds: UInt64) { race.attemptFailed(now: Course.at(milliseconds)) }
    mutating func found(_ addresses: String, _ milliseconds: UInt64) {
        race.handleAddresses(Array(addresses), now: Course.at(milliseconds))
    }
}

@Suite struct AddressRaceTests {
    @Test func aSilentAddressLetsTheNextOneTryAfterAQuarterOfASecond() {
        var course = Course("ab")
        #expect(course.next(0) == .connect("a"))
        #expect(course.next(0) == .wait(until: Course.at(250)))
        #expect(course.next(250) == .connect("b"))
    }

    @Test func afterAFailureTheNextOneIsTriedAtOnce() {
        var course = Course("ab")
        #expect(course.next(0) == .connect("a"))
        course.failed(3)
        #expect(course.next(3) == .connect("b"))
    }

    @Test func whenAllHaveFailedTheNameIsLookedUpAndWhatIsNewIsTried() {
        var course = Course("a")
        #expect(course.next(0) == .connect("a"))
        course.failed(1)
        #expect(course.next(1) == .lookUp)
        course.found("ac", 5)
        #expect(course.next(5) == .connect("c"))
        course.failed(6)
        #expect(course.next(6) == .failed)
    }

    @Test func aNameThatHasNothingNewFailsAtOnce() {
        var course = Course("a")
        #expect(course.next(0) == .connect("a"))
        course.failed(1)
        #expect(course.next(1) == .lookUp)
        course.found("a", 4)
        #expect(course.next(4) == .failed)
    }

    @Test func aSilentOriginIsLookedUpAgainEachSecond() {
        var course = Course("a")
        #expect(course.next(0) == .connect("a"))
        #expect(course.next(0) == .wait(until: Course.at(250)))
        #expect(course.next(250) == .lookUp)
        course.found("a", 260)
        #expect(course.next(260) == .wait(until: Course.at(1260)))
        #expect(course.next(1260) == .lookUp)
        course.found("b", 1300)
        #expect(course.next(1300) == .connect("b"))
    }

    @Test func aDeadResolverDelaysARefusalByTwoSeconds() {
        var course = Course("a")
        #expect(course.next(0) == .connect("a"))
        course.failed(1)
        #expect(course.next(1) == .lookUp)
        #expect(course.next(1) == .wait(until: Course.at(2001)))
        #expect(course.next(2001) == .failed)
    }

    @Test func aNameWithoutAnAddressWaitsForItsAnswer() {
        var course = Course("")
        #expect(course.next(0) == .lookUp)
        #expect(course.next(5000) == .wait(until: .never))
        course.race.handleNoAnswer(now: Course.at(6000))
        #expect(course.next(6000) == .failed)
    }

    /// A reload gave the mapping another name while its old one was asked for: nobody answers that any more.
    @Test func anotherNameIsAskedAnew() {
        var course = Course("a")
        #expect(course.next(0) == .connect("a"))
        course.failed(1)
        #expect(course.next(1) == .lookUp)
        course.race.handleRenamed()
        #expect(course.next(2) == .lookUp)
        course.found("b", 3)
        #expect(course.next(3) == .connect("b"))
    }

    @Test func aNumberIsNotLookedUp() {
        var course = Course("a", isFixed: true)
        #expect(course.next(0) == .connect("a"))
        #expect(course.next(250) == .wait(until: .never))
        course.failed(300)
        #expect(course.next(300) == .failed)
    }

    @Test func noMoreThanFourAreUnderWay() {
        var course = Course("abcdef")
        for (index, address) in "abcd".enumerated() { #expect(course.next(UInt64(250 * index)) == .connect(address)) }
        #expect(course.next(1000) == .lookUp)
        course.found("abcdef", 1001)
        course.failed(1100)
        #expect(course.next(1100) == .connect("e"))
    }

    @Test func anAttemptThatTheRingRefusedIsMadeAgain() {
        var course = Course("ab")
        #expect(course.next(0) == .connect("a"))
        course.race.attemptRefused("a")
        #expect(course.next(10) == .connect("a"))
    }
}
