import Testing
import Time
import Tunnel
@testable import Control

/// Addresses are numbers.
typealias Dialer = Control.Dialer<Int>

/// A dialer on virtual time: milliseconds since the start.
struct Bench: ~Copyable {
    var dialer: Dialer
    var generator = FixedChance()
    private(set) var actions: [Dialer.Action] = []

    init(addresses: Int = 1, isSecure: Bool = false) {
        dialer = Dialer(isSecure: isSecure, now: Bench.at(0))
        dialer.handleAddresses(Array(0..<addresses), now: Bench.at(0))
    }

    static func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (1_000 + milliseconds) * 1_000_000) }

    /// What the dialer wants when its time has come.
    mutating func tick(_ milliseconds: UInt64) -> [Dialer.Action] {
        dialer.handleTimeout(now: Bench.at(milliseconds), using: &generator)
        return take()
    }

    mutating func take() -> [Dialer.Action] {
        var taken: [Dialer.Action] = []
        while let action = dialer.nextAction() { taken.append(action) }
        dialer.checkInvariants()
        return taken
    }

    mutating func connected(_ id: Dialer.CandidateID, _ milliseconds: UInt64) -> [Dialer.Action] {
        dialer.handleConnected(id, now: Bench.at(milliseconds))
        return take()
    }

    mutating func failed(_ id: Dialer.CandidateID, _ milliseconds: UInt64, _ failure: Dialer.Failure = .passing) -> [Dialer.Action] {
        dialer.handleFailed(id, failure, now: Bench.at(milliseconds))
        return take()
    }
}

/// No jitter at all: the longest delay.
struct FixedChance: RandomNumberGenerator {
    mutating func next() -> UInt64 { .max }
}

@Suite struct DialerTests {
    /// What stands by says HELLO at once, with TLS too, and nothing is dialled before it may have been answered.
    /// protocol 4.27
    @Test(arguments: [false, true]) func aStandbyIsGreetedAtOnce(isSecure: Bool) {
        var bench = Bench(addresses: 2, isSecure: isSecure)
        _ = bench.tick(0)
        _ = bench.connected(1, 10)
        if isSecure {
            bench.dialer.handleSecured(1, now: Bench.at(20))
            _ = bench.take()
        }
        bench.dialer.handleWon(1)
        _ = bench.take()
        let id = bench.dialer.handleStandby(1, connectTook: .milliseconds(30), now: Bench.at(1000))
        let (first, meanwhile, isAnswer) = (bench.take(), bench.tick(1059), bench.dialer.isAnswer(id, attempt: 2))
        #expect(first == [.greet(id, attempt: 2)] && meanwhile == [] && isAnswer)
        // It is silent: the usual attempts begin.
        let later = bench.tick(1060)
        #expect(later.contains { if case .connect = $0 { true } else { false } })
        bench.dialer.handleWon(id)
        let isSeeking = bench.dialer.isSeeking
        #expect(!isSeeking)
    }

    /// An outage ends with a connect whose SYN was sent again and again: the next outage is no long path for that.
    @Test func aConnectThatOutlivedAnOutageSaysNothingOfThePath() {
        var bench = Bench()
        _ = bench.tick(0)
        _ = bench.connected(1, 10)
        bench.dialer.handleWon(1)
        _ = bench.take()
        for outage in 1...3 as ClosedRange<UInt64> {
            let start = outage * 100_000
            bench.dialer.handleCarrierLost(now: Bench.at(start))
            var attempts: [(id: Dialer.CandidateID, at: UInt64)] = []
            for time in stride(from: start, through: start + 2000, by: 5) {
                for case .connect(let id, _) in bench.tick(time) { attempts.append((id, time)) }
            }
            for (earlier, later) in zip(attempts, attempts.dropFirst()) { #expect(later.at - earlier.at == 50) }
            // The first one's SYN arrives after all.
            guard let first = attempts.first else { return #expect(Bool(false), "no attempt") }
            _ = bench.connected(first.id, start + 2000)
            bench.dialer.handleWon(first.id)
            _ = bench.take()
        }
    }

    @Test func aHostThatRefusesIsAskedAtAHundredthOfTheTime() {
        var bench = Bench()
        var connects: [UInt64] = []
        for time in stride(from: UInt64(0), through: 15_000, by: 10) {
            for case .connect(let id, _) in bench.tick(time) {
                connects.append(time)
                #expect(bench.failed(id, time, .refused) == [])
            }
        }
        #expect(connects.prefix(101).elementsEqual(stride(from: 0, through: 5000, by: 50)))
        for (earlier, later) in zip(connects, connects.dropFirst()) {
            #expect(later - earlier >= max(50, min(earlier / 100, 100)) && later - earlier <= max(50, min(earlier / 100, 100) + 10))
        }
        // No route, for example: it may be there again in the next moment.
        guard case .connect(let id, _)? = bench.tick(15_200).first else { return #expect(Bool(false), "no attempt") }
        #expect(bench.failed(id, 15_200) == [])
        guard case .connect? = bench.tick(15_300).first else { return #expect(Bool(false), "no attempt") }
        #expect(bench.tick(15_350).count == 1)
    }

    /// protocol 4.6
    @Test func aFreshAttemptStartsAtEachInterval() {
        var bench = Bench()
        #expect(bench.tick(0) == [.connect(1, address: 0)])
        #expect(bench.tick(40) == [])
        #expect(bench.tick(50) == [.connect(2, address: 0)])
        #expect(bench.connected(2, 210) == [.greet(2, attempt: 1)])
    }

    /// protocol 4.22
    @Test func anotherServersAddressIsNotAskedAgain() {
        var bench = Bench(addresses: 2)
        #expect(bench.tick(0) == [.connect(1, address: 0)])
        #expect(bench.tick(50) == [.connect(2, address: 1)])
        #expect(bench.connected(2, 60) == [.greet(2, attempt: 1)])
        bench.dialer.handleForeign(2, now: Bench.at(80))
        _ = bench.take()
        for step in 0..<4 {
            let actions = bench.tick(100 + UInt64(step) * 50)
            #expect(actions.contains { if case .connect(_, address: 0) = $0 { true } else { false } })
            #expect(!actions.contains { if case .connect(_, address: 1) = $0 { true } else { false } })
        }
        // A session without a carrier has nothing to lose by asking once more.
        bench.dialer.handleCarrierLost(now: Bench.at(400))
        #expect((bench.tick(400) + bench.tick(450)).contains { if case .connect(_, address: 1) = $0 { true } else { false } })
    }

    @Test func theNextAddressIsTriedAtOnceWhenOneFailsButEachOnlyOnce() {
        var bench = Bench(addresses: 3)
        #expect(bench.tick(0) == [.connect(1, address: 0)])
        #expect(bench.failed(1, 1) == [])
        #expect(bench.dialer.nextTimeout == Bench.at(1))
        #expect(bench.tick(1) == [.connect(2, address: 1)])
        #expect(bench.failed(2, 2) == [])
        #expect(bench.tick(2) == [.connect(3, address: 2)])
        #expect(bench.failed(3, 3) == [])
        #expect(bench.tick(3) == [])
        #expect(bench.dialer.nextTimeout >= Bench.at(45))
    }

    /// A name server gives the same addresses in another order while an attempt is under way.
    /// protocol 4.22
    @Test func anAnswerCountsForTheAddressThatGaveIt() {
        var bench = Bench(addresses: 2)
        #expect(bench.tick(0) == [.connect(1, address: 0)])
        #expect(bench.connected(1, 10) == [.greet(1, attempt: 1)])
        bench.dialer.handleAddresses([1, 0], now: Bench.at(20))
        bench.dialer.handleForeign(1, now: Bench.at(30))
        _ = bench.take()
        for milliseconds in stride(from: 50 as UInt64, to: 400, by: 50) {
            for action in bench.tick(milliseconds) {
                if case .connect(_, let address) = action { #expect(address == 1) }
            }
        }
    }

    /// The session's own server has left the name: the others' word decides, and somebody must ask for it.
    /// protocol 4.22
    @Test func somebodyIsAskedAlways() {
        var bench = Bench(addresses: 2)
        bench.dialer.handleAddresses([1, 2], foreign: [1, 2], now: Bench.at(0))
        #expect(bench.tick(0) == [.connect(1, address: 1)])
        #expect(bench.tick(50) == [.connect(2, address: 2)])
    }

    /// RFC 8305: a dead first address costs no more than one attempt's delay.
    @Test func aDeadFirstAddressCostsOneInterval() {
        var bench = Bench(addresses: 2)
        #expect(bench.tick(0) == [.connect(1, address: 0)])
        #expect(bench.dialer.nextTimeout <= Bench.at(50))
        #expect(bench.tick(200) == [.connect(2, address: 1)])
        #expect(bench.connected(2, 201) == [.greet(2, attempt: 1)])
        bench.dialer.handleWon(2)
        #expect(bench.take() == [.abandon(1, .notNeeded)])
        // What worked is tried first next time.
        bench.dialer.handleCarrierLost(now: Bench.at(900))
        #expect(bench.tick(900) == [.connect(3, address: 1)])
    }

    /// A middlebox that accepts and swallows: each fresh connection says HELLO, so the first one behind the heal wins. But a crowd's server
    /// that is slow must not get twenty a second from each.
    @Test func aSwallowedHelloSlowsTheNextALittle() {
        var bench = Bench()
        var greetings: [UInt64] = []
        for time in stride(from: UInt64(0), through: 5000, by: 10) {
            for case .connect(let id, _) in bench.tick(time) where bench.connected(id, time).contains(where: { if case .greet = $0 { true } else { false } }) {
                greetings.append(time)
            }
        }
        #expect(greetings.prefix(4).elementsEqual([0, 50, 100, 200]))
        #expect(zip(greetings, greetings.dropFirst()).allSatisfy { $1 - $0 <= 200 })
        #expect(greetings.last! > 4800)
    }

    /// A server that a crowd has reached answers in the order of arrival: who always comes anew is never answered.
    @Test(arguments: [false, true]) func theFirstWhoWaitsIsNotReplaced(isSecure: Bool) {
        var bench = Bench(isSecure: isSecure)
        var first: Dialer.CandidateID?
        var abandoned: Set<Dialer.CandidateID> = []
        for time in stride(from: UInt64(0), through: 5900, by: 10) {
            for action in bench.tick(time) {
                switch action {
                case .connect(let id, _):
                    first = first ?? id
                    for case .abandon(let id, _) in bench.connected(id, time) { abandoned.insert(id) }
                case .abandon(let id, _): abandoned.insert(id)
                default: break
                }
            }
        }
        #expect(abandoned.count > 3)
        #expect(!abandoned.contains(first!))
    }

    /// Acknowledgments are held back for a HELLO that is open: not for longer than usual once the carrier is well again.
    @Test func patienceEndsWhenTheCarrierRecovers() {
        var bench = Bench()
        guard case .connect(let carrier, _)? = bench.tick(0).first else { return #expect(Bool(false), "no attempt") }
        _ = bench.connected(carrier, 1)
        bench.dialer.handleWon(carrier)
        bench.dialer.handleSuspected(now: Bench.at(1000))
        guard case .connect(let id, _)? = bench.tick(1000).first else { return #expect(Bool(false), "no attempt") }
        #expect(bench.connected(id, 1001).contains(.greet(id, attempt: 2)))
        #expect(bench.tick(4500).allSatisfy { $0 != .abandon(id, .unanswered) })
        bench.dialer.handleRecovered()
        #expect(bench.tick(4510).contains(.abandon(id, .unanswered)))
    }

    @Test func anAddressThatSwallowsDoesNotKeepTheOthersBack() {
        var bench = Bench(addresses: 3)
        #expect(bench.tick(0) == [.connect(1, address: 0)])
        #expect(bench.connected(1, 1) == [.greet(1, attempt: 1)])
        #expect(bench.tick(200) == [.connect(2, address: 1)])
        #expect(bench.connected(2, 201) == [.greet(2, attempt: 2)])
    }

    /// On a long path a HELLO would displace the one before, which is on its way.
    @Test func helloWaitsForTheAnswerOnALongPath() {
        var bench = Bench()
        _ = bench.tick(0)
        _ = bench.tick(200)
        #expect(bench.connected(1, 1000) == [.greet(1, attempt: 1)])
        #expect(bench.connected(2, 1200) == [])
        #expect(bench.tick(2500).allSatisfy { if case .greet = $0 { false } else { true } })
        #expect(bench.tick(3000).contains(.greet(2, attempt: 2)))
    }

    @Test func aPathOfFourSecondsGetsACarrier() {
        var bench = Bench()
        var time: UInt64 = 0
        var first: Dialer.CandidateID?
        var alive: Set<Dialer.CandidateID> = []
        while time < 4000 {
            for action in bench.tick(time) {
                if case .connect(let id, _) = action { alive.insert(id); first = first ?? id }
                if case .abandon(let id, _) = action { alive.remove(id) }
            }
            time += 100
        }
        #expect(alive.contains(first!), "the patient attempt was abandoned")
        #expect(bench.connected(first!, 4000) == [.greet(first!, attempt: 1)])
        var answered = true
        while time < 8000 {
            answered = answered && !bench.tick(time).contains(.abandon(first!, .unanswered))
            time += 100
        }
        #expect(answered, "the answer was not waited for")
        #expect(bench.dialer.isAnswer(first!, attempt: 1) == true)
    }

    /// protocol 4.19
    @Test func laterHellosLiveOnAndOthersLose() {
        var second = Bench()
        _ = second.tick(0); _ = second.tick(200); _ = second.tick(400)
        _ = second.connected(1, 1)
        #expect(second.connected(2, 410) == [.greet(2, attempt: 2)])
        second.dialer.handleWon(1)
        #expect(second.take() == [.abandon(3, .notNeeded), .keep(2)])
        #expect(second.failed(2, 500) == [.withdrawOffers])
        #expect(second.dialer.isSeeking == false)
    }

    /// protocol 4.19
    @Test func aWrongSuspicionLeavesGreetedCandidatesAlone() {
        var bench = Bench()
        _ = bench.tick(0)
        _ = bench.connected(1, 1)
        bench.dialer.handleWon(1)
        _ = bench.take()
        bench.dialer.handleSuspected(now: Bench.at(1000))
        #expect(bench.tick(1000) == [.connect(2, address: 0)])
        #expect(bench.connected(2, 1001) == [.greet(2, attempt: 2)])
        #expect(bench.tick(1200) == [.connect(3, address: 0)])
        bench.dialer.handleRecovered()
        #expect(bench.take() == [.abandon(3, .notNeeded)])
        #expect(bench.dialer.hasCandidates == true)
    }

    @Test func anOutageOfAnHourIsStillProbedEverySecond() {
        var pace = DialPace(now: Bench.at(0))
        var generator = FixedChance()
        #expect(pace.next(now: Bench.at(59_000), using: &generator) <= .milliseconds(100))
        #expect(pace.next(now: Bench.at(599_000), using: &generator) <= .milliseconds(200))
        #expect(pace.next(now: Bench.at(7_200_000), using: &generator) <= .seconds(1))
        pace.restart(now: Bench.at(7_200_000))
        #expect(pace.next(now: Bench.at(7_200_000), using: &generator) <= .milliseconds(100))
    }

    @Test func sleepDoesNotMakeAPathLong() {
        var bench = Bench()
        _ = bench.tick(0)
        #expect(bench.connected(1, 3_600_000) == [.greet(1, attempt: 1)])
        bench.dialer.handlePathChanged(now: Bench.at(3_600_001))
        _ = bench.take()
        #expect(bench.tick(3_600_002) == [.connect(2, address: 0)])
        #expect(bench.connected(2, 3_600_003) == [.greet(2, attempt: 2)])
    }

    @Test func nothingIsDialledAfterTheEnd() {
        var bench = Bench()
        _ = bench.tick(0)
        bench.dialer.stop()
        #expect(bench.take() == [.abandon(1, .notNeeded)])
        #expect(bench.tick(10_000) == [])
        #expect(bench.dialer.nextTimeout == .never)
    }

    /// A server that was stopped: its kernel accepts, and it answers all HELLOs that wait, one after the other.
    @Test func fewHellosWaitForAStoppedServer() {
        var bench = Bench()
        var open: Set<Dialer.CandidateID> = []
        for turn in 0..<100 as Range<UInt64> {
            for action in bench.tick(turn * 50) {
                if case .connect(let id, _) = action {
                    for next in bench.connected(id, turn * 50) {
                        if case .greet(let id, _) = next { open.insert(id) }
                        if case .abandon(let id, _) = next { open.remove(id) }
                    }
                }
                if case .abandon(let id, _) = action { open.remove(id) }
            }
            #expect(open.count <= DialPolicy.handshakesMaximum)
        }
    }

    /// A path of 600 ms that works: one handshake, and one connection that waits for its turn.
    @Test func aLongPathSeesFewAttempts() {
        var bench = Bench(isSecure: true)
        var connecting: [(id: Dialer.CandidateID, at: UInt64)] = []
        var (connects, handshakes, alive) = (0, 0, 0)
        func act(_ actions: [Dialer.Action], _ now: UInt64) {
            for action in actions {
                switch action {
                case .connect(let id, _):
                    connecting.append((id, now + 600))
                    connects += 1
                    alive += 1
                case .secure: handshakes += 1
                case .abandon(let id, _):
                    connecting.removeAll { $0.id == id }
                    alive -= 1
                default: break
                }
            }
        }
        var now: UInt64 = 0
        while now < 1800 {
            act(bench.tick(now), now)
            while let first = connecting.first, first.at <= now {
                connecting.removeFirst()
                act(bench.connected(first.id, now), now)
            }
            now += 10
        }
        #expect(handshakes == 1)
        #expect(alive <= 2, "\(alive) connections are open")
        #expect(connects <= 14)
    }

    /// A crowd keeps the server busy for three seconds: each client begins few handshakes, and gives none up that heard something.
    @Test func aBusyServerSeesFewHandshakes() {
        var bench = Bench(isSecure: true)
        var handshakes: [Dialer.CandidateID] = []
        var abandoned: Set<Dialer.CandidateID> = []
        func act(_ actions: [Dialer.Action], _ now: UInt64) -> [Dialer.CandidateID] {
            var connects: [Dialer.CandidateID] = []
            for action in actions {
                switch action {
                case .connect(let id, _): connects.append(id)
                case .secure(let id): handshakes.append(id)
                case .abandon(let id, _): abandoned.insert(id)
                default: break
                }
            }
            return connects
        }
        for now in stride(from: UInt64(0), to: 3000, by: 10) {
            for id in act(bench.tick(now), now) { _ = act(bench.connected(id, now + 1), now + 1) }
            if now == 500 { bench.dialer.handleHeard(handshakes[0], now: Bench.at(now)) }
        }
        #expect((2...5).contains(handshakes.count), "\(handshakes.count) handshakes")
        #expect(!abandoned.contains(handshakes[0]), "the one that heard something was given up")
        bench.dialer.handleSecured(handshakes[0], now: Bench.at(3000))
        #expect(bench.take().contains(.greet(handshakes[0], attempt: 1)))
    }

    /// Connects so many steps of 50 ms after `from` on, when nobody answers.
    private func dials(_ bench: inout Bench, _ from: UInt64, _ to: UInt64) -> [UInt64] {
        stride(from: from, to: to, by: 50).filter { now in
            bench.tick(now).contains { if case .connect = $0 { true } else { false } }
        }
    }

    /// Firewalls ban for 30 s, and each attempt renews the ban: one pause must be longer, and nothing may be repeated in it.
    @Test func whenNobodyAnswersOnePauseIsLongerThanABan() {
        var bench = Bench()
        let times = dials(&bench, 0, 100_000)
        let pause = zip(times, times.dropFirst()).map { $1 - $0 }.max() ?? 0
        #expect(pause >= 32_000 && pause <= 34_000, "the longest pause is \(pause) ms")
        #expect(times.filter { $0 < 20_000 }.count > 300)
        #expect(times.filter { $0 > 60_000 }.count > 150)
        let hasCandidates = bench.dialer.hasCandidates
        #expect(hasCandidates)
    }

    @Test func aPauseHoldsNoConnectAndEndsWithTheNetworksNews() {
        var bench = Bench()
        _ = dials(&bench, 0, 25_000)
        let isQuiet = bench.dialer.isPausing && !bench.dialer.hasCandidates
        #expect(isQuiet)
        bench.dialer.handlePathChanged(now: Bench.at(25_000))
        let isPausing = bench.dialer.isPausing
        #expect(!isPausing)
        #expect(dials(&bench, 25_000, 25_050) == [25_000])
    }

    /// Somebody says no: there is no ban.
    @Test func whoIsRefusedDoesNotPause() {
        var bench = Bench()
        var count = 0
        for now in stride(from: UInt64(0), to: 60_000, by: 50) {
            for case .connect(let id, _) in bench.tick(now) {
                count += 1
                _ = bench.failed(id, now + 1)
            }
        }
        #expect(count > 1000)
    }

    @Test func carriersThatCarryNothingGetSmallSegmentsUntilTheRouteChanges() {
        var bench = Bench()
        func win(_ now: UInt64, _ attempt: UInt64) {
            for case .connect(let id, _) in bench.tick(now) {
                #expect(bench.connected(id, now + 1) == [.greet(id, attempt: attempt)])
                bench.dialer.handleWon(id)
                _ = bench.take()
            }
        }
        win(0, 1)
        bench.dialer.handleSuspected(isFruitless: false, now: Bench.at(1000))
        win(1000, 2)
        bench.dialer.handleSuspected(isFruitless: true, now: Bench.at(2000))
        let size1 = bench.dialer.segmentByteCount
        #expect(size1 == nil)
        win(2000, 3)
        bench.dialer.handleSuspected(isFruitless: true, now: Bench.at(3000))
        let size2 = bench.dialer.segmentByteCount
        #expect(size2 == DialPolicy.smallSegmentByteCount)
        win(3000, 4)
        bench.dialer.handleSuspected(isFruitless: false, now: Bench.at(9000))
        let size3 = bench.dialer.segmentByteCount
        #expect(size3 == DialPolicy.smallSegmentByteCount)
        bench.dialer.handleRouteChanged()
        let size4 = bench.dialer.segmentByteCount
        #expect(size4 == nil)
    }

    /// Something on the way breaks each carrier as soon as it carries bytes.
    @Test func carriersThatAreLostBeforeAnAnswerFollowEachOtherMoreAndMoreSlowly() {
        var bench = Bench()
        var now: UInt64 = 0
        var waits: [UInt64] = []
        for attempt in 1...12 as ClosedRange<UInt64> {
            let lostAt = now
            var dialled: Dialer.CandidateID?
            while dialled == nil {
                for case .connect(let id, _) in bench.tick(now) { dialled = id }
                if dialled == nil { now += 10 }
            }
            waits.append(now - lostAt)
            #expect(bench.connected(dialled!, now) == [.greet(dialled!, attempt: attempt)])
            bench.dialer.handleWon(dialled!)
            _ = bench.take()
            now += 1
            bench.dialer.handleCarrierLost(isFruitless: attempt < 11, now: Bench.at(now))
            _ = bench.take()
        }
        #expect(waits == [0, 0, 0, 0, 50, 100, 200, 400, 800, 900, 900, 0])
    }

    /// A certificate's flight fills packets too.
    @Test func handshakesWithoutAnAnswerGetSmallSegments() {
        var bench = Bench(isSecure: true)
        for now in stride(from: UInt64(0), to: 12_000, by: 10) {
            for case .connect(let id, _) in bench.tick(now) { _ = bench.connected(id, now + 1) }
        }
        let size5 = bench.dialer.segmentByteCount
        #expect(size5 == DialPolicy.smallSegmentByteCount)
    }
}
