import Testing
import Time
import Tunnel
import Wire
@testable import Control

/// Rule 4.22, over a name with the addresses "a", "b" and "c"; the session was made at "a".
@Suite struct SessionHomeTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: milliseconds * 1_000_000) }
    private let all = ["a", "b", "c"]

    private func home() -> SessionHome<String> {
        var home = SessionHome<String>()
        home.handleCarried(by: "a")
        return home
    }

    /// protocol 4.22
    @Test(arguments: [SessionHome<String>.Carrier.none, .works, .suspected]) func aStrangerNeverEndsIt(_ carrier: SessionHome<String>.Carrier) {
        var home = home()
        for step in 0..<100 as Range<UInt64> {
            #expect(home.handleUnknown(from: step % 2 == 0 ? "b" : "c", carrier: carrier, addresses: all, isUnused: false, now: at(step * 100)) == .stranger)
        }
        #expect(home.isStranger("b") && home.isStranger("c") && !home.isStranger("a"))
    }

    /// protocol 4.22
    @Test func itsOwnServerEndsItAtOnceWhenThereIsNoCarrier() {
        var home = home()
        #expect(home.handleUnknown(from: "a", carrier: .none, addresses: all, isUnused: false, now: at(0)) == .gone)
    }

    /// The address may lead to another server for a moment, and the carrier live on.
    /// protocol 4.22
    @Test func itsOwnAddressIsNotBelievedWhileTheCarrierWorks() {
        var home = home()
        for step in 0..<100 as Range<UInt64> {
            #expect(home.handleUnknown(from: "a", carrier: .works, addresses: all, isUnused: false, now: at(step * 1000)) == .notYet)
        }
    }

    /// protocol 4.22
    @Test func itsOwnAddressIsBelievedAfterThreeSecondsOfSilence() {
        var home = home()
        #expect(home.handleUnknown(from: "a", carrier: .suspected, addresses: all, isUnused: false, now: at(1000)) == .notYet)
        #expect(home.handleUnknown(from: "a", carrier: .suspected, addresses: all, isUnused: false, now: at(3900)) == .notYet)
        // The suspicion was wrong: it counts anew.
        home.handleRecovered()
        #expect(home.handleUnknown(from: "a", carrier: .suspected, addresses: all, isUnused: false, now: at(5000)) == .notYet)
        #expect(home.handleUnknown(from: "a", carrier: .suspected, addresses: all, isUnused: false, now: at(8000)) == .gone)
    }

    /// The address that carried it is no longer the name's: when all others have spoken, nobody is left who could know it.
    /// protocol 4.22
    @Test func allOfTheNameTogetherAreBelieved() {
        var home = home()
        #expect(home.handleUnknown(from: "b", carrier: .none, addresses: ["b", "c"], isUnused: false, now: at(0)) == .stranger)
        #expect(home.handleUnknown(from: "c", carrier: .none, addresses: ["b", "c"], isUnused: false, now: at(1)) == .gone)
    }

    @Test func whatWasSaidBeforeTheCarrierWasLostIsForgotten() {
        var home = home()
        _ = home.handleUnknown(from: "b", carrier: .suspected, addresses: ["b", "c"], isUnused: false, now: at(0))
        home.handleCarrierLost()
        #expect(home.handleUnknown(from: "c", carrier: .none, addresses: ["b", "c"], isUnused: false, now: at(1)) == .stranger)
    }

    /// protocol 4.22
    @Test func whatHasNothingToLoseNeedsNoProof() {
        var home = home()
        #expect(home.handleUnknown(from: "b", carrier: .none, addresses: all, isUnused: true, now: at(0)) == .gone)
        #expect(home.handleUnknown(from: "b", carrier: .works, addresses: all, isUnused: true, now: at(0)) == .stranger)
    }

    // MARK: Servers that say who they are

    private let own = ServerIdentity(run: 1, place: 10)

    private func named() -> SessionHome<String> {
        var home = SessionHome<String>()
        home.handleCarried(by: "a", server: own)
        return home
    }

    /// protocol 4.24
    @Test func aServerThatWasStartedAnewIsBelieved() {
        var home = named()
        #expect(
            home.handleUnknown(
                from: "a", server: ServerIdentity(run: 2, place: 10), carrier: .none, addresses: all, isUnused: false, now: at(0)) == .gone)
    }

    /// A load balancer leads to another server: its own may be back in a moment.
    /// protocol 4.24
    @Test(arguments: [SessionHome<String>.Carrier.none, .suspected]) func anotherServerAtItsAddressIsNotBelieved(_ carrier: SessionHome<String>.Carrier) {
        var home = named()
        let another = ServerIdentity(run: 2, place: 11)
        for second in 0..<30 as Range<UInt64> {
            #expect(
                home.handleUnknown(from: "a", server: another, carrier: carrier, addresses: ["a"], isUnused: false, now: at(second * 1000)) == .notYet)
        }
        // Its own has been there meanwhile.
        home.handleCarried(by: "a", server: own)
        #expect(home.handleUnknown(from: "a", server: another, carrier: carrier, addresses: ["a"], isUnused: false, now: at(31_000)) == .notYet)
    }

    /// While the carrier works its server is there, whoever else answers: nothing counts from then.
    /// protocol 4.24
    @Test func anotherServerIsNotCountedWhileTheCarrierWorks() {
        var home = named()
        let another = ServerIdentity(run: 2, place: 11)
        for second in [0, 20, 40] as [UInt64] {
            #expect(
                home.handleUnknown(from: "a", server: another, carrier: .works, addresses: ["a"], isUnused: false, now: at(second * 1000)) == .notYet)
        }
        #expect(home.handleUnknown(from: "a", server: another, carrier: .suspected, addresses: ["a"], isUnused: false, now: at(41_000)) == .notYet)
        home.handleCarrierLost()
        #expect(home.handleUnknown(from: "a", server: another, carrier: .none, addresses: ["a"], isUnused: false, now: at(80_000)) == .notYet)
        #expect(home.handleUnknown(from: "a", server: another, carrier: .none, addresses: ["a"], isUnused: false, now: at(110_000)) == .gone)
    }

    /// Nobody but another one has answered there for half a minute: it has taken the address over.
    /// protocol 4.24
    @Test func whoHasTakenTheAddressOverIsBelieved() {
        var home = named()
        let another = ServerIdentity(run: 2, place: 11)
        #expect(home.handleUnknown(from: "a", server: another, carrier: .none, addresses: ["a"], isUnused: false, now: at(0)) == .notYet)
        #expect(home.handleUnknown(from: "a", server: another, carrier: .none, addresses: ["a"], isUnused: false, now: at(29_999)) == .notYet)
        #expect(home.handleUnknown(from: "a", server: another, carrier: .none, addresses: ["a"], isUnused: false, now: at(30_000)) == .gone)
    }

    /// protocol 4.24
    @Test func aServerThatDoesNotSayWhoItIsIsBelievedAsBefore() {
        var home = named()
        #expect(home.handleUnknown(from: "a", carrier: .none, addresses: all, isUnused: false, now: at(0)) == .gone)
    }

    /// protocol 4.24
    @Test func addressesOfOneServerAreItsOwn() {
        var home = named()
        home.handleAlias(["b"])
        #expect(home.addresses == ["a", "b"] && !home.isStranger("b"))
        for number in 0..<100 { home.handleCarried(by: "\(number)", server: own) }
        #expect(home.addresses.count <= 16)
    }
}
