import Control
import Tunnel
import Wire

/// One end of one carrier: a socket, the bytes on their way from it, and the send under way. Ends come in pairs; that
/// of the client is even, its peer the next number.
final class End {
    let number: Int
    let side: Side
    var peer: Int { number ^ 1 }

    enum State {
        /// Client: no connection yet.
        case connecting
        /// Client: HELLO is out. Server: HELLO is awaited.
        case handshaking
        /// A session's current carrier.
        case established
        /// Server: REFUSE is on its way.
        case refusing
        /// Our socket is closed. A send may still be under way.
        case closed
    }
    var state: State
    /// Of the HELLO that went out on it, or that was accepted from it.
    var attempt: UInt64 = 0
    /// Which of the ways to the server it takes.
    var address = 0
    /// Client: what its dialer calls it until it has won.
    var candidate: Dialer.CandidateID = 0
    var offer: Endpoint.Offer?
    weak var session: Session?

    /// What arrived and has not been read.
    var inbound = ByteLine()
    /// The way from here to the peer.
    var way = Way()
    var send: Send?
    /// Belongs to the send under way.
    let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
    let preamble = UnsafeMutableRawBufferPointer.allocate(byteCount: 1024, alignment: 8)

    init(_ number: Int, _ side: Side, _ state: State) {
        self.number = number
        self.side = side
        self.state = state
    }

    deinit {
        control.deallocate()
        preamble.deallocate()
    }

    var isOpen: Bool { state != .closed }
    /// The network ended the carrier.
    var wasKilled = false
}

/// One direction of a carrier: the sender's kernel, the network and the receiver's kernel in one.
struct Way: ~Copyable {
    var bytes = ByteLine()
    /// Bytes that have arrived at the other end in all.
    var arrived = 0
    /// Nothing moves until released: a blackhole or a clog.
    var isHeld = false
    /// Takes bytes and loses them.
    var isDead = false
    /// The carrier dies when so many bytes have arrived.
    var cutAt: Int?
    var cutStyle = 0
    var isDelivering = false
    /// The end closed in order: its peer is told when all bytes have arrived.
    var endsAfterBytes = false
}

/// A send that the kernel has and has not completed: own bytes first, then stored ones, control, stored ones again.
struct Send {
    /// Of HELLO, WELCOME or REFUSE.
    var preamble = 0..<0
    /// The stored bytes: `rest` from `start`, and after the control bytes `more`.
    var start: UInt64 = 0
    var rest = 0
    var control = 0..<0
    var more = 0
    /// A spliced frame's payload, which ends `more`: it does not lie in the store.
    var transit: [UInt8] = []
    /// What the endpoint asked for; nil when it did not.
    var batch: Batch?
    var session: Session?
    /// What the kernel took, once it did.
    var taken: Int?

    init(_ batch: Batch, of session: Session) {
        self.batch = batch
        self.session = session
        (start, rest, control, more) = (batch.start, batch.rest, batch.control, batch.more)
    }

    init(preamble: Range<Int>, early: Int = 0, from start: UInt64 = 0, of session: Session?) {
        self.preamble = preamble
        self.start = start
        self.session = session
        more = early
    }

    var byteCount: Int { preamble.count + rest + control.count + more }
    var usesStore: Bool { rest + more > 0 }
}
