import Control
import CSlab
import Loop
import Time
import Tunnel
import Wire

/// One TCP connection between tele client and tele server. It may die at any byte; its session does not.
///
///     client:  connecting ─▶ (tunnelling) ─▶ (securing) ─▶ connected ─HELLO─▶ greeted ─WELCOME─▶ established ─▶ closing
///     server:  (TLS) ─▶ awaitingHello ─HELLO holds─▶ established ─▶ closing
///                   └─REFUSE─▶ refusing ─▶ closing ─nothing in flight─▶ closed
///     both:    standby, after a HELLO without an attempt ─HELLO─▶ as above
///              subflow of another one, after a HELLO that names its epoch, until that one ends
///
/// Its stored properties are three small types (block, greeting, operations in flight) and what identifies it.
final class Carrier {
    enum State: Equatable { case connecting, tunnelling, securing, connected, greeted, awaitingHello, refusing, standby, subflow, established, closing, closed }

    /// Where received bytes lie: memory[parsed..<filled] is to be read.
    struct Block {
        var memory: UnsafeMutableRawPointer?
        var capacity = 0
        var parsed = 0
        var filled = 0

        var unread: UnsafeRawBufferPointer {
            UnsafeRawBufferPointer(start: memory.map { $0 + parsed }, count: filled - parsed)
        }
        var room: UnsafeMutableRawBufferPointer {
            UnsafeMutableRawBufferPointer(start: memory.map { $0 + filled }, count: capacity - filled)
        }
    }

    /// HELLO, WELCOME or REFUSE, then early bytes of the session's store: sent before any batch. A server adds to it: a PING on a standby may
    /// be in flight when the HELLO comes that it crosses.
    struct Greeting {
        var bytes: [UInt8] = []
        var earlyStart: UInt64 = 0
        var earlyCount = 0
        var isSent: Bool { bytes.isEmpty && earlyCount == 0 }
    }

    /// What the kernel holds.
    struct InFlight {
        var connect = false
        var receive = false
        var send = false
        /// The send is this batch of the endpoint; nil: it is the greeting.
        var batch: Batch?
        /// The batch is this frame, which goes past memory.
        var frame: SplicedFrame?
        /// Lowest session offset that the send reads from the store.
        var pinnedFrom: UInt64?
        var isEmpty: Bool { !connect && !receive && !send }
    }

    /// Control frames and a header, then payload out of a pipe.
    struct SplicedFrame {
        let prefix: Int
        let byteCount: Int
        var sent = 0
        /// Where the rest of the payload lies. Nil: it was brought into memory, and is no longer sent from here.
        var transit: Pipe?
    }

    let fd: Int32
    let peer: Address
    let index: UInt32
    let generation: UInt32
    let openedAt: UInt64
    var state: State
    /// The session that it carries, or that it asks for.
    var session: Session?
    var transport = Transport.plain
    /// The peer's authenticated name, for people; empty without TLS.
    var peerName = ""
    /// Its identity by key or certificate: the owner of its sessions.
    var peerIdentity = ""
    var block = Block()
    var greeting = Greeting()
    var inFlight = InFlight()
    /// A send found no room in the ring or no memory: none is tried before the carrier's retry timer.
    var isRefused = false
    /// Bytes come fast: it receives into a slab of its own. Else it shares the pool, so that an idle one holds nothing.
    var isHot = false
    /// It is watched: when it goes quiet it releases its memory.
    var isWarm = false
    /// Receives in a row with less than a second between them.
    var quickArrivals = 0
    /// When bytes last came.
    var arrivedAt: UInt64 = 0
    /// Bytes in its block are read in the next iteration.
    var isUnfinished = false
    /// The payload that it brings is passed on without being copied: it is read when it is readable.
    var passes = false
    /// Short payloads, and short pieces of them, nearly in a row.
    var shortPayloads = 0
    /// What the kernel may hold of it. Nil: the path has no queue to fear.
    var window: PathWindow?
    var isLoopback: Bool { window == nil }
    /// The path is so short that the CPU is its limit.
    lazy var isNear = PathFacts(fd).map { $0.minimumRoundTripMicroseconds < Policy.nearMicroseconds } ?? false
    /// Milliseconds to which its retransmissions back off.
    var retransmissionMaximum = Policy.retransmissionMaximumMilliseconds
    /// Which congestion control it shall have, and the one that the system gave it.
    var congestion = CongestionChoice()
    var systemCongestion = ""
    /// Client: HELLO went out on it.
    var hasGreeted = false
    /// While closing: the send in flight carries last words and is waited for.
    var hasLastWords = false
    /// Client: whose it is, what its dialer calls it until it has won, and what its HELLO offered.
    var uplink: Uplink?
    var candidate: Dialer<Way>.CandidateID = 0
    /// Client: where its connect went, and the interface that it left through, 0 where nobody asked.
    var way: Way?
    var interface: UInt32 = 0
    /// The connections over which its bytes go. Nil: over its own.
    var subflows: Subflows?
    /// Client: the number by which it asked to be a subflow, and of which carrier.
    var subflowNumber: UInt64 = 0
    var subflowEpoch: UInt32 = 0
    /// It is a subflow: of which carrier, and what it does for it.
    var share: Share?
    /// The other side has ended it in order, and a connection that belongs to it may still bring something.
    var hasEnded = false
    /// It was the session's standby.
    var hasStoodBy = false
    var offer: Endpoint.Offer?
    /// Client: the names of its own origins, as its HELLO lists them.
    var origins: [String] = []
    /// Client, while it is tunnelling: what it says to the proxy.
    var proxy: ProxyHandshake?
    /// Unsequenced frames of the batch in flight, or the greeting that is: must outlive the send.
    let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Carrier.controlByteCount, alignment: 8)
    static let controlByteCount = max(Endpoint.controlBufferByteCount, Specification.controlFrameMaximum)

    init(fd: Int32, peer: Address, index: UInt32, generation: UInt32, state: State, now: UInt64) {
        self.fd = fd
        self.peer = peer
        self.index = index
        self.generation = generation
        self.state = state
        openedAt = now
    }

    deinit { control.deallocate() }

    func token(_ operation: Operation) -> Token { operation.token(index, generation) }

    /// Its end has begun: nothing is sent or read any more.
    var isOver: Bool { state == .closing || state == .closed }

    /// Nothing sealed waits to be sent.
    var isClear: Bool { transport.channel?.outgoing.isEmpty ?? true }

    /// Nothing may come on it for long.
    var mayBeIdle: Bool { carriesBytes || state == .standby }

    /// Bytes of its session go over it.
    var carriesBytes: Bool { state == .established || state == .subflow }

    /// Its subflows bring what it brought: its own connection is only watched.
    var isSilent: Bool { subflows?.receives == true }

    /// Those over which what it has to send goes: its own, or its subflows.
    var connections: [Carrier] { subflows.flatMap { $0.sends ? $0.all : nil } ?? [self] }

    /// What TCP knows of each.
    var facts: [PathFacts] { connections.compactMap { PathFacts($0.fd) } }

    /// It owns its session, and may carry a batch now.
    var isReady: Bool { state == .established && greeting.isSent && !inFlight.send && !isRefused && isClear && subflows?.hasRoom ?? true }

    /// What proofs on this carrier are bound to. Nil: TLS cannot say.
    var binding: [UInt8]? {
        guard let channel = transport.channel else { return [] }
        return channel.binding
    }

    func checkInvariants() {
        assert(block.parsed <= block.filled && block.filled <= block.capacity, "a block read past its end")
        assert(inFlight.frame == nil || inFlight.batch != nil, "a spliced frame that is no batch")
        assert(inFlight.send || inFlight.batch == nil, "a batch without a send")
        assert(inFlight.pinnedFrom == nil || inFlight.send || !greeting.isSent, "a pin that nobody needs")
        assert(state != .established || session != nil, "an established carrier without a session")
        assert(state != .subflow || share != nil, "a subflow of nothing")
    }
}
