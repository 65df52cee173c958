import Testing
import Time
import Tunnel
import Wire
@testable import Control

@Suite struct RegistryTests {
    private func registry(_ sessions: Int = 3, hold: Interval = .seconds(100)) -> Registry {
        Registry(limits: .init(sessions: sessions, hold: hold, grantTotal: 64 << 20, grantMaximum: 16 << 20))
    }

    private func at(_ seconds: UInt64) -> Instant { Instant(nanoseconds: (1000 + seconds) * 1_000_000_000) }

    private func identity(_ key: UInt32) -> SessionIdentity { SessionIdentity(high: 1, low: UInt64(key)) }

    private func hello(_ key: UInt32?, attempt: UInt64 = 1) -> Hello {
        Hello(identity: key.map(identity) ?? .none, attempt: attempt, received: 0, replay: 0, earlyByteCount: 0, dataLimit: 0)
    }

    private func admit(_ registry: inout Registry, _ key: UInt32, _ seconds: UInt64 = 0, proves: Bool = true)
        -> (atAdmission: UInt32?, atProof: Registry.Admission)
    {
        guard case .begin(let grant) = registry.judge(hello(nil), from: "", isDraining: false, isProven: { _ in false }) else {
            return (nil, .full)
        }
        let evicted = registry.admit(
            key, identity(key), of: "", secret: Secret(UInt64(key), 0, 0, 0), attempt: 1, grant: grant,
            now: at(seconds))
        if let evicted { registry.forget(evicted) }
        let proof = proves ? registry.proved(key, now: at(seconds)) : .known
        if case .welcome(_, let victim?) = proof { registry.forget(victim) }
        registry.checkInvariants()
        return (evicted, proof)
    }

    /// protocol 2.6
    @Test(arguments: [(0, 0), (2, 2), (2, 9)] as [(UInt8, UInt8)]) func theVersionsMustMeet(lowest: UInt8, highest: UInt8) {
        let registry = registry()
        var hello = hello(nil)
        (hello.versionMinimum, hello.versionMaximum) = (lowest, highest)
        #expect(
            registry.judge(hello, from: "", isDraining: false, isProven: { _ in false })
                == .refuse(.versionUnsupported, reason: "this server speaks version 1"))
    }

    /// A HELLO without an attempt offers a connection for later, of whoever owns the session; it displaces nothing.
    /// protocol 4.27
    @Test func aHelloWithoutAnAttemptStandsBy() {
        var registry = registry()
        _ = admit(&registry, 7)
        #expect(registry.judge(hello(7, attempt: 0), from: "", isDraining: false, isProven: { _ in true }) == .standBy(7))
        #expect(
            registry.judge(hello(7, attempt: 0), from: "", isDraining: false, isProven: { _ in false }) == .refuse(.sessionUnknown, reason: "session unknown"))
        #expect(
            registry.judge(hello(7, attempt: 0), from: "another", isDraining: false, isProven: { _ in true })
                == .refuse(.sessionUnknown, reason: "session unknown"))
        #expect(registry.judge(hello(7, attempt: 2), from: "", isDraining: false, isProven: { _ in true }) == .resume(7))
    }

    /// protocol 2.6
    @Test func theHighestVersionThatBothSpeakIsTaken() {
        let registry = registry()
        var hello = hello(nil)
        (hello.versionMinimum, hello.versionMaximum) = (0, 7)
        guard case .begin = registry.judge(hello, from: "", isDraining: false, isProven: { _ in false }) else {
            Issue.record("version 1 was not found between 0 and 7")
            return
        }
    }

    /// protocol 4.5
    @Test(arguments: [(1, 0, 0), (0, 1, 0), (0, 0, 1)] as [(UInt64, UInt64, UInt32)])
    func aNewSessionStartsAtZero(received: UInt64, replay: UInt64, early: UInt32) {
        let registry = registry()
        var hello = hello(nil)
        (hello.received, hello.replay, hello.earlyByteCount) = (received, replay, early)
        #expect(
            registry.judge(hello, from: "", isDraining: false, isProven: { _ in false })
                == .refuse(.protocolViolation, reason: "a new session starts at zero"))
    }

    /// protocol 4.10
    @Test func nothingHoldsWithoutAProof() {
        var registry = registry()
        _ = admit(&registry, 1)
        #expect(
            registry.judge(hello(1, attempt: 2), from: "", isDraining: false, isProven: { _ in false })
                == .refuse(.sessionUnknown, reason: "session unknown"))
        #expect(
            registry.judge(hello(9, attempt: 2), from: "", isDraining: false, isProven: { _ in true })
                == .refuse(.sessionUnknown, reason: "session unknown"))
        #expect(registry.judge(hello(1, attempt: 2), from: "", isDraining: false, isProven: { $0 == Secret(1, 0, 0, 0) }) == .resume(1))
    }

    /// With one's own key, and even with another's identity and secret.
    /// protocol 4.9a
    @Test func aSessionBelongsToWhoBeganIt() {
        var registry = registry()
        _ = registry.admit(1, identity(1), of: "alice", secret: .zero, attempt: 1, grant: 1, now: at(0))
        #expect(
            registry.judge(hello(1, attempt: 2), from: "mallory", isDraining: false, isProven: { _ in true })
                == .refuse(.sessionUnknown, reason: "session unknown"))
        #expect(registry.judge(hello(1, attempt: 2), from: "alice", isDraining: false, isProven: { _ in true }) == .resume(1))
        #expect(registry.sessions(whosePeer: { $0 == "alice" }) == [1])
    }

    /// Forged, replayed, reordered and repeated resumes, ten thousand of them: an attempt is accepted once, and only upwards.
    /// protocol 4.6, 4.19
    @Test(arguments: [1, 2, 3] as [UInt64]) func racesLeaveOneWinnerEach(seed: UInt64) {
        var state = seed
        func next(_ bound: UInt64) -> UInt64 {
            state = state &* 6364136223846793005 &+ 1442695040888963407
            return (state >> 33) % bound
        }
        var registry = registry()
        _ = admit(&registry, 1)
        var accepted: UInt64 = 1
        for _ in 0..<10_000 {
            let attempt = next(accepted + 5)
            let isForged = next(3) == 0
            let verdict = registry.judge(hello(1, attempt: attempt), from: "", isDraining: false, isProven: { _ in !isForged })
            #expect((verdict == .resume(1)) == (!isForged && attempt > accepted), "seed \(seed)")
            if verdict == .resume(1) {
                registry.resumed(1, attempt: attempt)
                accepted = attempt
            }
        }
        #expect(accepted > 100)
    }

    /// protocol 4.6, 12.4
    @Test func anAttemptCountsOnce() {
        var registry = registry()
        _ = admit(&registry, 1)
        registry.resumed(1, attempt: 5)
        for attempt in 1...5 as ClosedRange<UInt64> {
            #expect(
                registry.judge(hello(1, attempt: attempt), from: "", isDraining: false, isProven: { _ in true })
                    == .refuse(.stale, reason: "a newer attempt was accepted"))
        }
        #expect(registry.judge(hello(1, attempt: 6), from: "", isDraining: false, isProven: { _ in true }) == .resume(1))
    }

    /// protocol 4.20
    @Test func aDrainingServerTakesKnownSessionsAndNoNewOnes() {
        var registry = registry()
        _ = admit(&registry, 1)
        #expect(
            registry.judge(hello(nil), from: "", isDraining: true, isProven: { _ in false })
                == .refuse(.stopping, reason: "the server is stopping"))
        #expect(registry.judge(hello(1, attempt: 2), from: "", isDraining: true, isProven: { _ in true }) == .resume(1))
    }

    /// A table that strangers fill while a good client is away.
    /// protocol 12.3
    @Test func strangersCannotTakeTheSessionOfAClientInAnOutage() {
        var registry = registry()
        _ = admit(&registry, 1)
        registry.detached(1, isPrecious: true, now: at(1))
        for stranger in 2..<2002 as Range<UInt32> {
            // Half of them answer their WELCOME, and all vanish.
            _ = admit(&registry, stranger, 2, proves: stranger % 2 == 0)
            registry.detached(stranger, isPrecious: false, now: at(2))
        }
        #expect(registry.judge(hello(1, attempt: 2), from: "", isDraining: false, isProven: { _ in true }) == .resume(1))
        #expect(registry.count <= 3 + RegistryPolicy.newcomersMaximum)
        // Newcomers are promised little, and that beside the sessions' share.
        #expect(registry.grantedByteCount <= (64 << 20) + RegistryPolicy.newcomersMaximum * RegistryPolicy.newcomerGrant)
    }

    /// protocol 4.20
    @Test func aFullTableOfSessionsWithStreamsEvictsNobody() {
        var registry = registry()
        for key in 1...3 as ClosedRange<UInt32> {
            _ = admit(&registry, key)
            registry.detached(key, isPrecious: true, now: at(1))
        }
        #expect(
            registry.judge(hello(nil), from: "", isDraining: false, isProven: { _ in false })
                == .refuse(.tooManySessions, reason: "too many sessions"))
        registry.resumed(2, attempt: 2)
        registry.detached(2, isPrecious: false, now: at(2))
        guard case .welcome(_, evict: 2) = admit(&registry, 4, 3).atProof else {
            return _ = Issue.record("the one with nothing to lose was not the one to go")
        }
        #expect(registry.count == 3)
    }

    /// protocol 2.10
    @Test func newcomersGiveWayToNewcomersOnly() {
        var registry = registry()
        _ = admit(&registry, 1)
        for key in 2..<(2 + UInt32(RegistryPolicy.newcomersMaximum)) { _ = admit(&registry, key, UInt64(key), proves: false) }
        #expect(admit(&registry, 5000, 5000, proves: false).atAdmission == 2)
    }

    /// protocol 2.9
    @Test func aSessionIsHeldAndThenExpires() {
        var registry = registry(hold: .seconds(5))
        _ = admit(&registry, 1)
        #expect(registry.nextExpired(now: at(1000)) == nil)
        registry.detached(1, isPrecious: true, now: at(1000))
        #expect(registry.nextTimeout <= at(1005))
        #expect(registry.nextExpired(now: at(1004)) == nil)
        registry.resumed(1, attempt: 2)
        #expect(registry.nextExpired(now: at(1006)) == nil)
        #expect(registry.nextTimeout == .never)
        registry.detached(1, isPrecious: true, now: at(1010))
        #expect(registry.nextExpired(now: at(1015)) == 1)
        registry.forget(1)
        #expect(registry.nextExpired(now: at(1015)) == nil)
        #expect(registry.grantedByteCount == 0)
    }

    /// Protocol 4.20: its WELCOME was lost; nobody can ever resume it.
    @Test func anOrphanIsForgottenWithinAMinute() {
        var registry = registry(hold: .seconds(86_400))
        _ = admit(&registry, 1, proves: false)
        registry.detached(1, isPrecious: false, now: at(3))
        #expect(registry.nextExpired(now: at(62)) == nil)
        #expect(registry.nextExpired(now: at(63)) == 1)
    }

    /// protocol 2.10
    @Test func aNewcomerThatSaysNothingMustGo() {
        var registry = registry()
        _ = admit(&registry, 1, proves: false)
        #expect(registry.nextTimeout == at(10))
        #expect(registry.nextExpired(now: at(10)) == 1)
    }

    @Test func grantsLeaveRoomForTheNext() {
        var registry = registry(1000)
        for key in 1...500 as ClosedRange<UInt32> { _ = admit(&registry, key) }
        #expect(registry.grantedByteCount <= (64 << 20) + 500 * RegistryPolicy.newcomerGrant)
    }

    /// One peer fills the table with sessions that have streams, and leaves: others still find room, and it only loses its own.
    @Test func nobodyIsKeptOutByTheSessionsOfAnother() {
        var registry = registry(100)
        func begin(_ key: UInt32, _ peer: String) -> Registry.Admission? {
            guard case .begin(let grant) = registry.judge(hello(nil), from: peer, isDraining: false, isProven: { _ in false }) else { return nil }
            _ = registry.admit(key, identity(key), of: peer, secret: .zero, attempt: 1, grant: grant, now: at(UInt64(key)))
            let admission = registry.proved(key, now: at(UInt64(key)))
            if case .welcome(_, let victim?) = admission { registry.forget(victim) }
            registry.checkInvariants()
            return admission
        }
        for key in 1...100 as ClosedRange<UInt32> {
            _ = begin(key, "mallory")
            registry.detached(key, isPrecious: true, now: at(UInt64(key)))
        }
        #expect(begin(101, "mallory") == nil)
        guard case .welcome(_, evict: 1) = begin(102, "alice") else { return _ = Issue.record("alice was kept out") }
        registry.detached(102, isPrecious: true, now: at(102))
        // Alice's session is not the one that goes for Bob's.
        guard case .welcome(_, evict: 2) = begin(103, "bob") else { return _ = Issue.record("bob was kept out") }
        #expect(registry.judge(hello(102, attempt: 2), from: "alice", isDraining: false, isProven: { _ in true }) == .resume(102))
    }

    /// A hundred thousand sessions come, go and expire together: nothing is linear in their number for each.
    @Test(.timeLimit(.minutes(1))) func aHundredThousandSessionsExpireOneByOne() {
        var registry = registry(100_000, hold: .seconds(5))
        for key in 0..<100_000 as Range<UInt32> {
            _ = registry.admit(key, identity(key), of: "", secret: .zero, attempt: 1, grant: 1, now: at(0))
            _ = registry.proved(key, now: at(0))
        }
        for key in 0..<100_000 as Range<UInt32> { registry.detached(key, isPrecious: true, now: at(1)) }
        var expired = 0
        while let key = registry.nextExpired(now: at(6)) {
            registry.forget(key)
            expired += 1
        }
        #expect(expired == 100_000)
        #expect(registry.nextTimeout == .never)
        registry.checkInvariants()
    }

    /// Thirty sessions: whoever needs it gets the most there may be, also the last one, and gives it back when it is idle.
    @Test func grantsFollowNeed() {
        var registry = registry(100)
        for key in 1...30 as ClosedRange<UInt32> { _ = admit(&registry, key) }
        for key in 1...30 as ClosedRange<UInt32> {
            let now = at(UInt64(key) * 10)
            for _ in 0..<10 { _ = registry.grow(key, now: now) }
            #expect(registry.grant(of: key) == 16 << 20, "session \(key)")
            #expect(registry.shrinkIdle(now: now + .seconds(3)) == [key])
            registry.checkInvariants()
        }
        let hasGrown = registry.hasGrown
        #expect(!hasGrown)
    }

    /// One client that is killed and comes back twenty times: the sessions that it leaves behind keep nothing from it.
    @Test func whatADeadSessionWasGrantedIsFree() {
        var registry = registry(100)
        for key in 1...20 as ClosedRange<UInt32> {
            _ = admit(&registry, key)
            for _ in 0..<10 { _ = registry.grow(key, now: at(0)) }
            #expect(registry.grant(of: key) == 16 << 20)
            registry.detached(key, isPrecious: true, now: at(0))
        }
        registry.checkInvariants()
    }
}
