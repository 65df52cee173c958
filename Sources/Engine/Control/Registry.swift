import State
import Time
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
        /// How long a detached session is kept.
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
        /// The session of this key may go on over this connection later.
        case standBy(SessionKey)
        case refuse(CloseCode, reason: String)
    }

    /// Which line an entry stands in. Each is ordered by `since`, so the next that expires or gives way is its first.
    private enum Line: UInt8, CaseIterable {
        /// Proven, with a carrier: they do not expire.
        case attached
        /// Proven, without a carrier: with nothing to lose, and with something.
        case detached, precious
        /// Newcomers with a carrier, and without.
        case newcomers, orphans
    }

    private struct Entry {
        let identity: SessionIdentity
        /// Its owner: the peer's authenticated identity; empty without authentication.
        let peer: String
        /// The group that shares a part of a full table: its peer, or without authentication the address that it came from.
        let group: String
        let secret: Secret
        var attempt: UInt64
        /// Bytes that it may be promised: what it has while it is idle, and what it has now.
        var base: Int
        var grant: Int
        /// When it last needed more than the base.
        var usedAt = Instant(nanoseconds: 0)
        var line: Line
        /// Since when it is what it is: a newcomer, detached.
        var since: Instant
        var next: SessionKey?
        var previous: SessionKey?

        var isProven: Bool { line != .newcomers && line != .orphans }
    }

    private struct Ends {
        var first: SessionKey?
        var last: SessionKey?
        var count = 0
    }

    public var limits: Limits
    /// By key, which is a small number.
    private var entries: [Entry?] = [] { didSet { changes &+= 1 } }
    /// Changes of entries so far: while it stays the same, `archive` saves the same, but for `isPrecious`.
    public private(set) var changes: UInt64 = 0
    private var keys: [SessionIdentity: SessionKey] = [:]
    private var lines = [Ends](repeating: Ends(), count: Line.allCases.count)
    /// How many sessions each group has.
    private var groups: [String: Int] = [:]
    public private(set) var grantedByteCount = 0
    /// Sessions that were granted more than their base, each once or, when it has shrunk and grown again, twice.
    private var grown: [SessionKey] = []

    public init(limits: Limits) { self.limits = limits }

    public var count: Int { keys.count }
    private var newcomerCount: Int { self[.newcomers].count + self[.orphans].count }
    private var provenCount: Int { count - newcomerCount }

    // MARK: Lines

    private subscript(_ line: Line) -> Ends {
        get { lines[Int(line.rawValue)] }
        set { lines[Int(line.rawValue)] = newValue }
    }

    private func entry(_ key: SessionKey) -> Entry? { Int(key) < entries.count ? entries[Int(key)] : nil }

    /// Behind all that are not younger: nearly always at the end, for lines grow with time.
    private mutating func enter(_ key: SessionKey, _ line: Line) {
        var previous = self[line].last
        while let last = previous, entries[Int(last)]!.since > entries[Int(key)]!.since { previous = entries[Int(last)]!.previous }
        let next = previous.map { entries[Int($0)]!.next } ?? self[line].first
        entries[Int(key)]!.line = line
        entries[Int(key)]!.previous = previous
        entries[Int(key)]!.next = next
        if let previous { entries[Int(previous)]!.next = key } else { self[line].first = key }
        if let next { entries[Int(next)]!.previous = key } else { self[line].last = key }
        self[line].count += 1
    }

    private mutating func leave(_ key: SessionKey) {
        let entry = entries[Int(key)]!
        if let previous = entry.previous { entries[Int(previous)]!.next = entry.next } else { self[entry.line].first = entry.next }
        if let next = entry.next { entries[Int(next)]!.previous = entry.previous } else { self[entry.line].last = entry.previous }
        self[entry.line].count -= 1
    }

    private mutating func move(_ key: SessionKey, to line: Line) {
        leave(key)
        enter(key, line)
    }

    // MARK: HELLO

    /// What a HELLO may have. `isProven` tells whether its proof holds under a secret. Nothing changes yet
    /// (docs/protocol.md §4.10). Unknown and unproven get the same answer: who lacks the secret learns nothing.
    /// A session belongs to who began it: another `peer` learns nothing of it, whatever it can prove.
    /// `group`: see `admit`.
    public borrowing func judge(_ hello: Hello, from peer: String, group: String? = nil, isDraining: Bool, isProven: (Secret) -> Bool)
        -> Verdict
    {
        guard hello.versionMinimum <= Specification.version, hello.versionMaximum >= Specification.version else {
            return .refuse(.versionUnsupported, reason: "this server speaks version 1")
        }
        if hello.identity == .none { return judgeNew(hello, of: group ?? peer, isDraining) }
        guard let key = keys[hello.identity], let entry = entry(key), entry.peer == peer, isProven(entry.secret) else {
            return .refuse(.sessionUnknown, reason: "session unknown")
        }
        // No attempt: it offers a connection for later (protocol.md 4.27).
        if hello.attempt == 0 { return .standBy(key) }
        guard isNewer(hello.attempt, than: entry.attempt) else { return .refuse(.stale, reason: "a newer attempt was accepted") }
        return .resume(key)
    }

    private func judgeNew(_ hello: Hello, of group: String, _ isDraining: Bool) -> Verdict {
        guard !isDraining else { return .refuse(.stopping, reason: "the server is stopping") }
        guard hello.replay == 0, hello.received == 0, hello.earlyByteCount == 0 else {
            return .refuse(.protocolViolation, reason: "a new session starts at zero")
        }
        guard provenCount < limits.sessions || evictable(for: group) != nil else {
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
    /// `group`: with whom it shares its part of a full table; its peer, unless the owner knows better.
    public mutating func admit(
        _ key: SessionKey, _ identity: SessionIdentity, of peer: String, group: String? = nil, secret: Secret,
        attempt: UInt64, grant: Int, now: Instant
    ) -> SessionKey? {
        let evicted = newcomerCount >= RegistryPolicy.newcomersMaximum ? self[.orphans].first ?? self[.newcomers].first : nil
        precondition(keys[identity] == nil && entry(key) == nil, "a session was admitted twice")
        while entries.count <= Int(key) { entries.append(nil) }
        let group = group ?? peer
        entries[Int(key)] = Entry(
            identity: identity, peer: peer, group: group, secret: secret, attempt: attempt, base: grant, grant: grant,
            line: .newcomers, since: now)
        enter(key, .newcomers)
        keys[identity] = key
        groups[group, default: 0] += 1
        grantedByteCount += grant
        return evicted
    }

    /// A carrier owns the session from now on: its HELLO held in every way.
    public mutating func resumed(_ key: SessionKey, attempt: UInt64) {
        guard let entry = entry(key) else { preconditionFailure("an unknown session was resumed") }
        precondition(attempt > entry.attempt || isCanary, "an older attempt displaced a newer one")
        entries[Int(key)]!.attempt = attempt
        move(key, to: entry.isProven ? .attached : .newcomers)
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
        /// The bytes that it may be promised from now on. `evict` loses its place to it.
        case welcome(grant: Int, evict: SessionKey?)
        /// The table is full, and no session may be evicted.
        case full
    }

    /// The first frame after WELCOME: the peer is live.
    public mutating func proved(_ key: SessionKey, now: Instant) -> Admission {
        guard let entry = entry(key), !entry.isProven else { return .known }
        var evicted: SessionKey?
        if provenCount >= limits.sessions {
            guard let victim = evictable(for: entry.group) else { return .full }
            evicted = victim
        }
        entries[Int(key)]!.since = now
        move(key, to: .attached)
        let base = max(entry.base, min(limits.grantMaximum, (limits.grantTotal - grantedByteCount) / RegistryPolicy.baseParts))
        entries[Int(key)]!.base = base
        setGrant(key, base)
        return .welcome(grant: base, evict: evicted)
    }

    // MARK: Grants

    private mutating func setGrant(_ key: SessionKey, _ grant: Int) {
        grantedByteCount += grant - entries[Int(key)]!.grant
        entries[Int(key)]!.grant = grant
    }

    /// What the session may be promised; 0: it is not known.
    public borrowing func grant(of key: SessionKey) -> Int { entry(key)?.grant ?? 0 }

    /// Users of the session take so much that it needs more than it has: twice as much, as far as half of what is free reaches.
    /// Returns what it may be promised from now on.
    public mutating func grow(_ key: SessionKey, now: Instant) -> Int {
        guard let entry = entry(key), entry.isProven else { return 0 }
        #if CANARIES
        if Canary.selected == .fixedGrants { return entry.grant }
        #endif
        if entry.grant == entry.base { grown.append(key) }
        entries[Int(key)]!.usedAt = now
        let free = max(0, limits.grantTotal - grantedByteCount)
        setGrant(key, max(entry.grant, min(limits.grantMaximum, entry.grant * 2, entry.grant + free / 2)))
        return entries[Int(key)]!.grant
    }

    /// Sessions that have not needed for a while what they were granted: they are back at their base. Linear in those that have more.
    public mutating func shrinkIdle(now: Instant) -> [SessionKey] {
        var (idle, busy): ([SessionKey], [SessionKey]) = ([], [])
        for key in grown {
            guard let entry = entry(key), entry.grant > entry.base else { continue }
            if now.since(entry.usedAt) > RegistryPolicy.grantKept {
                setGrant(key, entry.base)
                idle.append(key)
            } else {
                busy.append(key)
            }
        }
        grown = busy
        return idle
    }

    /// Some session has more than its base.
    public var hasGrown: Bool { !grown.isEmpty }

    // MARK: Losses

    /// The session's carrier is gone. `isPrecious`: it has streams, or bytes that are not acknowledged.
    public mutating func detached(_ key: SessionKey, isPrecious: Bool, now: Instant) {
        guard let entry = entry(key) else { return }
        entries[Int(key)]!.since = now
        setGrant(key, entry.base)
        move(key, to: !entry.isProven ? .orphans : isPrecious ? .precious : .detached)
    }

    /// Sessions whose peer may not come any more.
    public borrowing func sessions(whosePeer isMeant: (String) -> Bool) -> [SessionKey] {
        keys.values.filter { isMeant(entries[Int($0)]!.peer) }
    }

    /// The session has ended, whatever the reason.
    public mutating func forget(_ key: SessionKey) {
        guard let entry = entry(key) else { return }
        leave(key)
        entries[Int(key)] = nil
        keys[entry.identity] = nil
        groups[entry.group]! -= 1
        if groups[entry.group] == 0 { groups[entry.group] = nil }
        grantedByteCount -= entry.grant
    }

    // MARK: Upgrades

    /// Saves the entry of `key`, or restores one under it. All sessions are detached (`detached`).
    public mutating func archive(
        _ key: SessionKey, _ identity: SessionIdentity, secret: Secret, isPrecious: Bool, _ archive: inout StateArchive, now: Instant
    ) throws(StateFault) {
        let known = entry(key)
        var (peer, group) = (known?.peer ?? "", known?.group ?? "")
        var (attempt, base, since, line) = (known?.attempt ?? 0, known?.base ?? 0, known?.since.nanoseconds ?? 0, known?.line ?? .orphans)
        // Whoever goes on has no carrier, from that moment on, which only it knows.
        if line == .attached { (line, since) = (isPrecious ? .precious : .detached, 0) }
        if line == .newcomers { (line, since) = (.orphans, 0) }
        try archive.text(&peer, most: RegistryPolicy.nameMaximum)
        try archive.text(&group, most: RegistryPolicy.nameMaximum)
        try archive.number(&attempt)
        try archive.number(&base, in: 0...(1 << 40))
        try archive.number(&since, in: 0...now.nanoseconds)
        try archive.choice(&line)
        guard !archive.isSaving else { return }
        guard line != .attached, line != .newcomers, identity != .none, keys[identity] == nil, known == nil else {
            throw StateFault("a session that there cannot be")
        }
        if since == 0 { since = now.nanoseconds }
        while entries.count <= Int(key) { entries.append(nil) }
        #if CANARIES
        if Canary.selected == .forgetsAttempts { attempt = 0 }
        #endif
        base = min(base, limits.grantMaximum)
        entries[Int(key)] = Entry(
            identity: identity, peer: peer, group: group, secret: secret, attempt: attempt, base: base, grant: base, line: line,
            since: Instant(nanoseconds: since))
        enter(key, line)
        keys[identity] = key
        groups[group, default: 0] += 1
        grantedByteCount += base
    }

    private func expiry(_ line: Line) -> Instant {
        guard let first = self[line].first, line != .attached else { return .never }
        let kept =
            switch line {
            case .newcomers: RegistryPolicy.newcomerMaximum
            case .orphans: min(RegistryPolicy.orphanMaximum, limits.hold)
            case .attached, .detached, .precious: limits.hold
            }
        return entries[Int(first)]!.since + kept
    }

    public var nextTimeout: Instant {
        min(expiry(.newcomers), expiry(.orphans), expiry(.detached), expiry(.precious))
    }

    /// A session whose time is over; the owner ends it and calls `forget`. Call until nil.
    public mutating func nextExpired(now: Instant) -> SessionKey? {
        for line in Line.allCases where expiry(line) <= now { return self[line].first }
        return nil
    }

    /// Who gives way to a session of `group` in a full table: of the detached ones with nothing to lose, the one alone for longest.
    /// Else, where one group has more than its part of the table and this one has less, the first of that
    /// group's detached ones: nobody keeps others out by leaving sessions behind.
    private func evictable(for group: String) -> SessionKey? {
        if let key = self[.detached].first { return key }
        let part = limits.sessions / (groups.count + 1)
        guard groups[group, default: 0] < part else { return nil }
        var key = self[.precious].first
        for _ in 0..<RegistryPolicy.evictionSteps {
            guard let candidate = key, let entry = entry(candidate) else { return nil }
            if groups[entry.group]! > part { return candidate }
            key = entry.next
        }
        return nil
    }

    /// Linear: for tests and debug builds.
    public borrowing func checkInvariants() {
        precondition(keys.count == entries.count { $0 != nil }, "a session without a name, or a name without a session")
        precondition(keys.count == lines.reduce(0) { $0 + $1.count }, "a session stands in no line")
        precondition(grantedByteCount == entries.reduce(0) { $0 + ($1?.grant ?? 0) }, "grants were miscounted")
        for line in Line.allCases {
            var (key, since) = (self[line].first, Instant(nanoseconds: 0))
            while let here = key, let entry = entry(here) {
                precondition(entry.line == line && (entry.since >= since || line == .attached), "a line is out of order")
                (key, since) = (entry.next, entry.since)
            }
        }
    }
}

/// The registry's limits and delays (docs/protocol.md §9.3).
public enum RegistryPolicy {
    /// Sessions at a time that have not answered their WELCOME: as many as a crowd that comes back may have under way.
    public static let newcomersMaximum = 1024
    /// A newcomer with a carrier must answer within this; without one (its WELCOME was lost) it is kept a little longer.
    public static let newcomerMaximum = Interval.seconds(10)
    public static let orphanMaximum = Interval.seconds(60)
    /// Bytes that a newcomer is promised.
    public static let newcomerGrant = 256 << 10
    /// A session that has proved itself is promised this part of what is free, and more while it needs more.
    public static let baseParts = 64
    /// It keeps the grown share for this long after it last needed it.
    public static let grantKept = Interval.seconds(2)
    /// Bytes of a peer's name, in UTF-8: a certificate's, or a key's.
    public static let nameMaximum = 4096
    /// Sessions that are looked at for one that gives way in a full table.
    public static let evictionSteps = 1024
}
