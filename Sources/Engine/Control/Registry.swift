import Tunnel
import Wire

/// The server's sessions: who they are, which HELLO may have one, how long they are kept without a carrier, who gives way
/// to whom, and how much each may make the server hold. Pure: identities and secrets come from the owner's chance, proofs
/// from its key.
///
///     newcomer ──a frame came behind WELCOME──▶ proven
///     each:  attached ⇄ detached ──hold is over, or evicted──▶ gone
///
/// Newcomers live in a small table of their own and for a short time, so that strangers who say HELLO and vanish cannot
/// take anybody's place. A session with something to lose (a stream, or bytes that are not acknowledged) is never evicted.
public struct Registry: ~Copyable {
    /// What the owner knows a session by.
    public typealias SessionKey = UInt32

    public struct Limits: Sendable {
        /// Sessions that have proved themselves.
        public var sessions: Int
        /// A detached session is kept for so long.
        public var hold: Interval
        /// Bytes that all sessions may be promised; and the most for one.
        public var grantTotal: Int
        public var grantMaximum: Int

        public init(sessions: Int, hold: Interval, grantTotal: Int, grantMaximum: Int) {
            self.sessions = sessions
            self.hold = hold
            self.grantTotal = grantTotal
            self.grantMaximum = grantMaximum
        }
    }

    public enum Verdict: Equatable {
        /// A new session, which may be promised `grant` bytes; `admit` follows.
        case begin(grant: Int)
        /// The session of this key; `resumed` follows when its offsets hold too.
        case resume(SessionKey)
        case refuse(CloseCode, reason: String)
    }

    private struct Entry {
        let key: SessionKey
        /// Who it belongs to: what its peer authenticated as; empty where nobody has to.
        let peer: String
        let secret: Octets32
        var attempt: UInt64
        var grant: Int
        var isProven = false
        var isAttached = true
        /// Detached: something would be lost.
        var isPrecious = false
        /// Since when it is what it is: a newcomer, detached.
        var since: Instant
    }

    public var limits: Limits
    private var entries: [SessionIdentity: Entry] = [:]
    private var identities: [SessionKey: SessionIdentity] = [:]
    private var newcomerCount = 0
    public private(set) var grantedByteCount = 0
    /// Not later than the next that expires.
    private var expiryAt = Instant.never

    public init(limits: Limits) { self.limits = limits }

    public var count: Int { entries.count }

    // MARK: HELLO

    /// What a HELLO may have. `isProven` tells whether its proof holds under a secret. Nothing changes yet
    /// (docs/protocol.md §4.10). Unknown and unproven get the same answer: who lacks the secret learns nothing.
    /// A session belongs to who began it: another `peer` learns nothing of it, whatever it can prove.
    public borrowing func judge(_ hello: Hello, from peer: String, isDraining: Bool, isProven: (Octets32) -> Bool) -> Verdict {
        guard hello.versionMinimum <= Specification.version, hello.versionMaximum >= Specification.version else {
            return .refuse(.versionUnsupported, reason: "this server speaks version 1")
        }
        if hello.identity == .none { return judgeNew(hello, isDraining) }
        guard let entry = entries[hello.identity], entry.peer == peer, isProven(entry.secret) else {
            return .refuse(.sessionUnknown, reason: "session unknown")
        }
        guard isNewer(hello.attempt, than: entry.attempt) else { return .refuse(.stale, reason: "a newer attempt was accepted") }
        return .resume(entry.key)
    }

    private func judgeNew(_ hello: Hello, _ isDraining: Bool) -> Verdict {
        guard !isDraining else { return .refuse(.stopping, reason: "the server is stopping") }
        guard hello.replay == 0, hello.received == 0, hello.earlyByteCount == 0 else {
            return .refuse(.protocolViolation, reason: "a new session starts at zero")
        }
        guard entries.count - newcomerCount < limits.sessions || evictable != nil else {
            return .refuse(.tooManySessions, reason: "too many sessions")
        }
        return .begin(grant: min(limits.grantMaximum, RegistryPolicy.newcomerGrant))
    }

    private func isNewer(_ attempt: UInt64, than accepted: UInt64) -> Bool {
        #if CANARIES
        if Canary.selected == .olderAttempt { return attempt != accepted }
        #endif
        return attempt > accepted
    }

    /// The owner has made a new session for a `begin`. Newcomers give way to newcomers: `evict` names one that must go.
    public mutating func admit(_ key: SessionKey, _ identity: SessionIdentity, of peer: String, secret: Octets32,
                               attempt: UInt64, grant: Int, now: Instant) -> SessionKey? {
        var evicted: SessionKey?
        if newcomerCount >= RegistryPolicy.newcomersMaximum { evicted = oldestNewcomer }
        precondition(entries[identity] == nil && identities[key] == nil, "a session was admitted twice")
        entries[identity] = Entry(key: key, peer: peer, secret: secret, attempt: attempt, grant: grant, since: now)
        identities[key] = identity
        grantedByteCount += grant
        newcomerCount += 1
        expiryAt = min(expiryAt, now + RegistryPolicy.newcomerMaximum)
        return evicted
    }

    /// A carrier owns the session from now on: its HELLO held in every way.
    public mutating func resumed(_ key: SessionKey, attempt: UInt64) {
        guard let identity = identities[key] else { preconditionFailure("an unknown session was resumed") }
        precondition(attempt > entries[identity]!.attempt || isCanary, "an older attempt displaced a newer one")
        entries[identity]!.attempt = attempt
        entries[identity]!.isAttached = true
        entries[identity]!.isPrecious = false
    }

    private var isCanary: Bool {
        #if CANARIES
        Canary.selected == .olderAttempt
        #else
        false
        #endif
    }

    /// What becomes of a newcomer that answered its WELCOME.
    public enum Admission: Equatable {
        /// It was proven before.
        case known
        /// It may be promised so much from now on. `evict` loses its place to it.
        case welcome(grant: Int, evict: SessionKey?)
        /// There is no room: nobody may be evicted.
        case full
    }

    /// A frame of the session came behind its WELCOME: somebody is there who can hear.
    public mutating func proved(_ key: SessionKey, now: Instant) -> Admission {
        guard let identity = identities[key], let entry = entries[identity], !entry.isProven else { return .known }
        var evicted: SessionKey?
        if entries.count - newcomerCount >= limits.sessions {
            guard let victim = evictable else { return .full }
            evicted = victim
        }
        newcomerCount -= 1
        entries[identity]!.isProven = true
        entries[identity]!.since = now
        let free = limits.grantTotal - grantedByteCount
        let grant = max(entry.grant, min(limits.grantMaximum, free / 4))
        grantedByteCount += grant - entry.grant
        entries[identity]!.grant = grant
        return .welcome(grant: grant, evict: evicted)
    }

    // MARK: Losses

    /// The session's carrier is gone. `isPrecious`: it has streams, or bytes that are not acknowledged.
    public mutating func detached(_ key: SessionKey, isPrecious: Bool, now: Instant) {
        guard let identity = identities[key] else { return }
        entries[identity]!.isAttached = false
        entries[identity]!.isPrecious = isPrecious
        entries[identity]!.since = now
        expiryAt = min(expiryAt, expiry(entries[identity]!))
    }

    /// Sessions whose peer may not come any more.
    public borrowing func sessions(whosePeer isMeant: (String) -> Bool) -> [SessionKey] {
        entries.values.filter { isMeant($0.peer) }.map(\.key)
    }

    /// The session has ended, whatever the reason.
    public mutating func forget(_ key: SessionKey) {
        guard let identity = identities.removeValue(forKey: key), let entry = entries.removeValue(forKey: identity) else {
            return
        }
        grantedByteCount -= entry.grant
        if !entry.isProven { newcomerCount -= 1 }
    }

    private func expiry(_ entry: Entry) -> Instant {
        if !entry.isProven {
            return entry.since + (entry.isAttached ? RegistryPolicy.newcomerMaximum
                                  : min(RegistryPolicy.orphanMaximum, limits.hold))
        }
        return entry.isAttached ? .never : entry.since + limits.hold
    }

    public var nextTimeout: Instant { expiryAt }

    /// A session whose time is over; the owner ends it and calls `forget`. Call until nil.
    public mutating func nextExpired(now: Instant) -> SessionKey? {
        guard now >= expiryAt else { return nil }
        // Linear in the sessions, once for each that expires or for a carrier that came back in time.
        var next = Instant.never
        for entry in entries.values {
            let at = expiry(entry)
            if at <= now { return entry.key }
            next = min(next, at)
        }
        expiryAt = next
        return nil
    }

    /// What was proved first goes last: of the detached ones with nothing to lose, the one alone for longest.
    private var evictable: SessionKey? {
        oldest { $0.isProven && !$0.isAttached && !$0.isPrecious }
    }

    private var oldestNewcomer: SessionKey? {
        oldest { !$0.isProven && !$0.isAttached } ?? oldest { !$0.isProven }
    }

    private func oldest(_ isMeant: (Entry) -> Bool) -> SessionKey? {
        entries.values.filter(isMeant).min { ($0.since, $0.key) < ($1.since, $1.key) }?.key
    }

    public borrowing func checkInvariants() {
        precondition(entries.count == identities.count, "a session without a name, or a name without a session")
        precondition(newcomerCount == entries.values.count { !$0.isProven }, "newcomers were miscounted")
        precondition(grantedByteCount == entries.values.reduce(0) { $0 + $1.grant }, "grants were miscounted")
    }
}

/// The registry's limits and delays (docs/protocol.md §9.3).
public enum RegistryPolicy {
    /// Sessions at a time that have not answered their WELCOME.
    public static let newcomersMaximum = 64
    /// A newcomer with a carrier must answer within this; without one (its WELCOME was lost) it is kept a little longer.
    public static let newcomerMaximum = Interval.seconds(10)
    public static let orphanMaximum = Interval.seconds(60)
    /// Bytes that a newcomer is promised.
    public static let newcomerGrant = 1 << 20
}
