import Loop
import Tunnel
import Wire

/// One TCP connection between tele client and tele server. It may die at any byte; its session does not.
///
///     client:  connecting ─▶ connected ─HELLO─▶ greeted ─WELCOME─▶ established ─▶ closing
///     server:  awaitingHello ─HELLO holds─▶ established ─▶ closing
final class Carrier {
    enum State: Equatable {
        case connecting, connected, greeted, awaitingHello, established, closing
    }

    let fd: Int32
    let peer: Address
    let index: UInt32
    let generation: UInt32
    let openedAt: UInt64
    var state: State
    /// The session that it carries, or that it asks for.
    var session: SessionHost?

    /// Where received bytes lie: block[parsed..<filled] is to be read.
    var block: UnsafeMutableRawPointer?
    var capacity = 0
    var parsed = 0
    var filled = 0

    /// Client: what its HELLO offered, with which attempt number, and when.
    var offer: Endpoint.Offer?
    var attempt: UInt64 = 0
    var greetedAt: UInt64 = 0
    /// How long the connect took: about a round trip.
    var connectNanoseconds: UInt64 = 0

    /// HELLO, WELCOME or REFUSE, then early bytes of the session's store: sent before any batch.
    var greeting: [UInt8] = []
    var early = (start: UInt64(0), count: 0)
    /// The connection ends when the greeting (a refusal) is out.
    var closesAfterGreeting = false
    /// While closing: the send in flight carries last words and is waited for.
    var hasLastWords = false

    /// Unsequenced frames of the batch in flight.
    let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
    var batch: Batch?
    /// Lowest session offset that the send in flight reads from the store.
    var pinnedFrom: UInt64?

    var connectSubmitted = false
    var receiveSubmitted = false
    var sendSubmitted = false
    var hasOperations: Bool { connectSubmitted || receiveSubmitted || sendSubmitted }
    var isGreetingSent: Bool { greeting.isEmpty && early.count == 0 }

    init(fd: Int32, peer: Address, index: UInt32, generation: UInt32, state: State, now: UInt64) {
        self.fd = fd
        self.peer = peer
        self.index = index
        self.generation = generation
        self.state = state
        openedAt = now
    }

    deinit { control.deallocate() }
}
