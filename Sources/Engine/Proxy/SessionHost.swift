import CSlab
import Loop
import Tunnel
import Wire

/// A session with its bytes: the endpoint counts, the store keeps what a carrier may have to repeat.
final class SessionHost {
    let index: UInt32
    let generation: UInt32
    var endpoint: Endpoint
    /// The session's byte sequence from the oldest unacknowledged byte on; positions are session offsets.
    var store = byte_queue()
    /// The carrier that owns the session.
    var carrier: Carrier?
    /// Carriers that were replaced while the kernel still read from the store.
    var pinning: [Carrier] = []

    var identity = SessionIdentity.none
    var secret = Octets32.zero
    /// Client: the last attempt made. Server: the last one accepted.
    var attempt: UInt64 = 0

    /// Bytes in the inbound queues of its users.
    var waitingByteCount = 0
    /// Users whose bytes are not read because a buffer is full.
    var readBlocked: [UInt32] = []
    var isDirty = false
    var isEnded = false
    /// When the session's entry in the timer heap fires.
    var timerAt = UInt64.max
    var detachedAt: UInt64?
    var suspectedAt: UInt64?
    let grantedByteCount: Int

    init(index: UInt32, generation: UInt32, role: Endpoint.Role, limits: Endpoint.Limits, now: UInt64) {
        self.index = index
        self.generation = generation
        grantedByteCount = limits.received
        endpoint = Endpoint(role: role, limits: limits, now: Instant(nanoseconds: now))
        queue_init(&store, 0)
    }

    /// Bytes that it holds for the peer.
    var heldByteCount: Int { queue_count_of(store) + waitingByteCount }

    /// A few letters of the identity, enough to tell sessions apart in a log and useless for anything else.
    var name: String { String(identity.high >> 40, radix: 16) }
}
