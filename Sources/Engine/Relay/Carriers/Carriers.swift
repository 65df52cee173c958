import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// All carriers of the process: their beginning, their end, and what completes. What arrives is the reader's, what leaves the writer's, TLS
/// the security's.
final class Carriers {
    unowned(unsafe) private let relay: RelayProcess
    let reader: CarrierReader
    let writer: CarrierWriter
    let security: CarrierSecurity
    private var table = SlotTable<Carrier>()
    /// Subflows of all carriers, and how many there have been.
    private(set) var subflowCount = 0
    private(set) var subflowTotal: UInt64 = 0
    /// Bytes that subflows have brought too early.
    var waitingByteCount = 0

    init(_ relay: RelayProcess, _ receiveSplice: ReceiveSplice, _ localWriter: LocalWriter) {
        self.relay = relay
        security = CarrierSecurity(relay)
        reader = CarrierReader(relay, security, receiveSplice, localWriter)
        writer = CarrierWriter(relay, security)
    }

    var all: [Carrier] { table.all }

    func find(_ token: Token) -> Carrier? { table.find(token) }

    // MARK: Beginnings

    /// `openedAt`: nil: now.
    func add(fd: Int32, peer: Address, state: Carrier.State, openedAt: UInt64? = nil) -> Carrier {
        CarrierTuning.apply(fd, isLoopback: peer.isLoopback)
        let carrier = table.insert { index, generation in
            Carrier(fd: fd, peer: peer, index: index, generation: generation, state: state, now: openedAt ?? relay.now)
        }
        // A proxy on this host is not the end of the path.
        if !peer.isLoopback || relay.configuration.proxy != nil { carrier.window = PathWindow() }
        return carrier
    }

    /// Starts its connect. False: the ring has no room.
    func connect(_ carrier: Carrier, to address: Address) -> Bool {
        carrier.inFlight.connect = relay.loop.connect(carrier.fd, address, carrier.token(.carrierConnect))
        return carrier.inFlight.connect
    }

    func noteJoined() {
        subflowCount += 1
        subflowTotal += 1
    }

    // MARK: Completions

    func handle(_ operation: Operation, _ completion: Completion) {
        defer { if let buffer = completion.buffer { relay.loop.returnToPool(buffer) } }
        guard let carrier = table.find(completion.token) else { return }
        relay.ledger?.attend(to: carrier.session)
        switch operation {
        case .carrierConnect:
            carrier.inFlight.connect = false
            if carrier.state == .connecting {
                relay.client?.handleConnected(carrier, Socket.ending(ofConnect: carrier.fd, to: carrier.peer, completion.error))
            }
        case .carrierReceive, .carrierReceivePooled, .carrierReadable:
            reader.completed(operation, carrier, completion)
        case .carrierWritable:
            relay.sendSplice.writable(carrier)
        case .carrierSend:
            writer.sendCompleted(carrier, completion.result)
        default:
            preconditionFailure("not an operation of a carrier")
        }
        carrier.checkInvariants()
        guard carrier.state == .closing else { return }
        if carrier.inFlight.isEmpty {
            release(carrier)
        } else if carrier.hasLastWords, !carrier.inFlight.send {
            carrier.hasLastWords = false
            relay.loop.cancel(carrier.fd)
        }
    }

    // MARK: Ends

    /// The carrier died by itself: its session goes on without.
    func lost(_ carrier: Carrier, _ reason: String) {
        guard !carrier.isOver else { return }
        if carrier.state == .subflow {
            if let whole = carrier.share?.carrier, !whole.isOver { return lost(whole, reason) }
            return close(carrier)
        }
        let owned = carrier.state == .established && carrier.session?.carrier === carrier ? carrier.session : nil
        let standing = carrier.state == .standby ? carrier.session : nil
        close(carrier)
        if let owned {
            relay.host.handleLost(owned, carrier, reason)
        } else if let standing {
            relay.sessions.standbyLost(standing, carrier)
        } else {
            relay.host.handleFailed(carrier, reason)
        }
    }

    /// The other side ended the connection in order. True: the carrier goes on for a moment, because other connections of it may have something.
    func ended(_ connection: Carrier) -> Bool {
        guard let subflows = connection.share?.carrier.subflows ?? connection.subflows, connection.share != nil || subflows.receives else { return false }
        subflows.ended(connection)
        return true
    }

    /// The peer sent something where it must not.
    func broken(_ carrier: Carrier) {
        guard let session = carrier.session else { return lost(carrier, "not what the other side sent") }
        relay.sessions.violated(session, ProtocolFault("bytes behind SUBFLOWS"))
    }

    /// Ends the connection with RST, so that queued bytes are discarded; the descriptor follows when nothing is in flight.
    func close(_ carrier: Carrier) {
        guard !carrier.isOver else { return }
        carrier.state = .closing
        for subflow in carrier.subflows?.all ?? [] { close(subflow) }
        Socket.abortOnClose(carrier.fd)
        if carrier.inFlight.isEmpty { release(carrier) } else { relay.loop.cancel(carrier.fd) }
    }

    /// Ends the connection in order: what the kernel was given still arrives, within a second.
    func closeGently(_ carrier: Carrier) {
        guard !carrier.isOver else { return }
        carrier.state = .closing
        for subflow in carrier.subflows?.all ?? [] { closeGently(subflow) }
        if carrier.inFlight.send {
            carrier.hasLastWords = true
            relay.timers.set(carrier.token(.carrierDeadline), at: relay.now + Policy.lastWordsMaximum.nanoseconds)
        } else if !carrier.inFlight.isEmpty {
            relay.loop.cancel(carrier.fd)
        } else {
            release(carrier)
        }
    }

    /// Closes all, also those that still send CLOSE or REFUSE.
    func closeAll() {
        for carrier in table.all {
            if carrier.state == .closing {
                carrier.hasLastWords = false
                relay.loop.cancel(carrier.fd)
            } else {
                close(carrier)
            }
        }
    }

    /// It is another loop's from here on, with its descriptor and its TLS channel. It has no session yet, and nothing of it is in flight.
    func letGo(_ carrier: Carrier) {
        precondition(carrier.inFlight.isEmpty && carrier.session == nil, "let go of a carrier that is in use")
        carrier.state = .closed
        carrier.transport = .plain
        cancelTimers(carrier)
        relay.loop.forget(carrier.fd)
        reader.forget(carrier)
        table.remove(carrier.index)
    }

    private func cancelTimers(_ carrier: Carrier) {
        relay.timers.cancel(carrier.token(.carrierDeadline))
        relay.timers.cancel(carrier.token(.carrierRetry))
        relay.timers.cancel(carrier.token(.carrierRoom))
    }

    private func release(_ carrier: Carrier) {
        precondition(carrier.state == .closing && carrier.inFlight.isEmpty, "closed a carrier that is in use")
        carrier.state = .closed
        writer.unpin(carrier)
        relay.sendSplice.dropTransit(carrier)
        carrier.session = nil
        if let share = carrier.share {
            share.carrier.subflows?.forget(carrier)
            subflowCount -= 1
            waitingByteCount -= share.waiting.count
        }
        carrier.share = nil
        cancelTimers(carrier)
        relay.loop.close(carrier.fd)
        carrier.transport.channel?.release(relay)
        reader.forget(carrier)
        table.remove(carrier.index)
    }

    // MARK: Time

    func handleDeadline(_ token: Token) {
        guard let carrier = table.find(token) else { return }
        switch carrier.state {
        case .awaitingHello: lost(carrier, "no hello in time")
        case .securing: break
        case .refusing: close(carrier)
        case .closing:
            carrier.hasLastWords = false
            relay.loop.cancel(carrier.fd)
        case .established: if carrier.subflows != nil { lost(carrier, "closed by the other side") }
        case .connecting, .tunnelling, .connected, .greeted, .standby, .subflow, .closed: break
        }
    }

    func retryLater(_ carrier: Carrier) {
        relay.timers.set(carrier.token(.carrierRetry), at: relay.now + Policy.retryDelay.nanoseconds)
    }

    func handleRetry(_ token: Token) {
        guard let carrier = table.find(token), !carrier.isOver else { return }
        carrier.isRefused = false
        if let channel = carrier.transport.channel, channel.hasUnread { security.open(carrier, channel) }
        reader.arm(carrier)
        security.resend(carrier)
        if !carrier.greeting.isSent { writer.sendGreeting(carrier) }
        carrier.share?.carrier.subflows?.goOn(carrier)
        if let session = carrier.session { relay.sessions.markDirty(session) }
    }
}
