import Control
import CSlab
import Loop
import Time
import Tunnel
import Wire

/// What a ledger saved of a session that seldom changes; with what it came from, as far as others can change it.
struct ArchivedOwner {
    let stamp: UInt64
    let streamMaximum: Int
    let bytes: [UInt8]
}

/// A session with its bytes: the endpoint counts, the store keeps what a carrier may have to repeat.
///
/// More stored properties than most: they are the session, explicit and in one place, for whoever hands it over later.
final class Session {
    let index: UInt32
    let generation: UInt32
    private let storage: UnsafeMutablePointer<Endpoint>
    /// Its record in the ledger, and whether it is in the list of sessions that changed since the last commit.
    var record: UInt32 = 0
    var isTouched = true
    private let ledger: Ledger?
    /// What the ledger last saved of it besides its streams and bytes. Nil: it has changed since.
    var archivedOwner: ArchivedOwner?
    /// The session's byte sequence from the oldest unacknowledged byte on; positions are session offsets.
    var store = byte_queue()
    /// Bytes of the store that lie in pipes.
    var kept = RetainedPipes()
    /// Users whose bytes are spliced, in the order of their turns.
    var splicing: [UInt32] = []
    /// Turns that they have before the next batch of others.
    var turns = 0
    /// The carrier that owns the session.
    var carrier: Carrier?
    /// A connection over another path, over which it can continue at once. Nil: there is none.
    var standby: Carrier?
    /// Server: the number of its last one; each has a greater one.
    var standbyNumber: UInt64 = 0 { didSet { archivedOwner = nil } }
    /// Carriers with a send in flight that reads from the store: the owner, candidates with early bytes, replaced ones.
    var pinning: [Carrier] = []

    var identity = SessionIdentity.none { didSet { archivedOwner = nil } }
    var secret = Secret.zero { didSet { archivedOwner = nil } }
    /// Bytes that it holds for the peer, counted by `Budget`.
    var account = Budget.Account()
    /// How long the oldest of them waits.
    var age = BacklogAge()
    /// Sockets that belong to it, and refer to it: none outlives it.
    var userCount = 0 {
        didSet { quota?.change(by: userCount - oldValue) }
    }
    /// Server: nil: its client may have as many streams as any.
    var quota: StreamQuota?
    /// Users whose bytes are not read because a buffer is full.
    var readBlocked: [UInt32] = []
    /// It is in the list of sessions whose readers wait for memory.
    var isReadBlocked = false
    var isDirty = false
    var isEnded = false { didSet { touch() } }
    /// The name that its carriers authenticated as; empty without TLS.
    var peerName = "" { didSet { archivedOwner = nil } }
    /// Server: the targets of the client's own origins, as its last HELLO named them.
    var origins: [UInt64] = []
    /// Server: its users who wait for a connection to a destination of their own.
    var chosenCount = 0
    /// Server: a frame came behind WELCOME.
    var isProven = false { didSet { archivedOwner = nil } }
    /// When the session's timer is due.
    var timerAt = UInt64.max
    /// What its host was told of its carrier.
    var link: Link { didSet { archivedOwner = nil } }
    var openedAt: UInt64 { didSet { archivedOwner = nil } }

    init(index: UInt32, generation: UInt32, role: Endpoint.Role, limits: Endpoint.Limits, hashSeed: UInt64, now: UInt64, ledger: Ledger?) {
        self.index = index
        self.generation = generation
        openedAt = now
        link = .detached(since: now)
        self.ledger = ledger
        storage = .allocate(capacity: 1)
        storage.initialize(to: Endpoint(role: role, limits: limits, hashSeed: hashSeed, now: Instant(nanoseconds: now)))
        queue_init(&store, 0)
        guard ledger != nil else { return }
        storage.pointee.noteChanges()
        isTouched = false
        touch()
    }

    deinit {
        storage.deinitialize(count: 1)
        storage.deallocate()
    }

    /// Whoever may change it comes by here: so every change is in the next commit.
    var endpoint: Endpoint {
        @inline(__always) unsafeAddress { UnsafePointer(storage) }
        @inline(__always) unsafeMutableAddress {
            if !isTouched { touch() }
            return storage
        }
    }

    @inline(never)
    func touch() {
        guard !isTouched, let ledger else { return }
        isTouched = true
        ledger.touch(self)
    }

    /// For the ledger, which reads it by functions that could change it.
    func unnotedEndpoint<Result, Fault>(_ body: (inout Endpoint) throws(Fault) -> Result) throws(Fault) -> Result { try body(&storage.pointee) }

    /// The first digits of the identity: enough to tell sessions apart in a log, too few to guess it.
    var name: String { String(identity.high >> 40, radix: 16) }

    /// It has streams, or bytes that are not acknowledged.
    var isPrecious: Bool { endpoint.streamCount > 0 || endpoint.retainedByteCount > 0 }

    /// It has a carrier, and no doubt about it.
    var isHealthy: Bool { endpoint.isAttached && !endpoint.isSuspected }

    func token(_ operation: Operation) -> Token { operation.token(index, generation) }

    func checkInvariants() {
        #if DEBUG
        endpoint.checkInvariants()
        #endif
        assert(store.tail == endpoint.sent, "the store does not end where the sequence ends")
        assert(carrier == nil || carrier!.session === self, "a carrier of another session")
        assert(account.held >= queue_count_of(store) || isEnded, "stored bytes that nobody counts")
    }
}
