import CSlab
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// Reads carriers: where their bytes lie, how many are read in a turn, and what becomes of each frame.
final class CarrierReader {
    unowned(unsafe) private let relay: RelayProcess
    private let loop: Loop
    private let budget: Budget
    private let sessions: Sessions
    private let security: CarrierSecurity
    private let receiveSplice: ReceiveSplice
    private let localWriter: LocalWriter
    /// Carriers to re-arm after this iteration's sends.
    private var readers: [Carrier] = []
    /// Carriers that have a slab, or pass payload on: those that go quiet give back what they hold.
    private var hot: [Carrier] = []
    /// Of these: with a slab.
    private var hotCount = 0
    private let hotMaximum: Int
    /// Carriers with bytes that are read in the next iteration.
    private var unfinished: [Carrier] = []

    init(_ relay: RelayProcess, _ security: CarrierSecurity, _ receiveSplice: ReceiveSplice, _ localWriter: LocalWriter) {
        (self.relay, self.security, self.receiveSplice, self.localWriter) = (relay, security, receiveSplice, localWriter)
        (loop, budget, sessions) = (relay.loop, relay.budget, relay.sessions)
        hotMaximum = max(Policy.hotCarriersMinimum, relay.configuration.memoryByteCount / 8 / Int(SLAB_BYTES))
    }

    private var carriers: Carriers { relay.carriers }

    /// The carrier is armed at the end of this iteration.
    func readAgain(_ carrier: Carrier) { readers.append(carrier) }

    /// A receive, or the wait for one, has ended.
    func completed(_ operation: Operation, _ carrier: Carrier, _ completion: Completion) {
        carrier.inFlight.receive = false
        switch operation {
        case .carrierReceive:
            if !carrier.isOver { received(carrier, completion.result) }
        case .carrierReceivePooled:
            guard !carrier.isOver else { return }
            guard completion.result > 0, let buffer = completion.buffer else { return failed(carrier, completion.result) }
            receivedPooled(carrier, loop.poolBytes(buffer), Int(completion.result))
        case .carrierReadable:
            switch carrier.state {
            case .established: receiveSplice.pass(carrier)
            case .securing: readers.append(carrier)
            case .connected: carriers.lost(carrier, "closed by the other side")
            case .connecting, .tunnelling, .greeted, .awaitingHello, .refusing, .standby, .subflow, .closing, .closed: break
            }
        default:
            preconditionFailure("not an operation of a reader")
        }
    }

    /// Its descriptor is closed.
    func forget(_ carrier: Carrier) {
        becomeCold(carrier)
        releaseBlock(carrier)
    }

    /// Re-arms the receives of carriers that were read.
    func armAll() {
        guard !readers.isEmpty else { return }
        for carrier in readers { arm(carrier) }
        readers.removeAll(keepingCapacity: true)
    }

    /// The carrier is always read. Before its handshake, and while something came in the last second, it has a page; while bytes come
    /// fast a slab; an idle one shares the pool.
    func arm(_ carrier: Carrier) {
        guard !carrier.inFlight.receive, !carrier.isOver, !carrier.isUnfinished, !carrier.hasEnded, carrier.state != .connecting else { return }
        #if CANARIES
        if Canary.selected == .pinnedSlabs, carrier.state == .established { (carrier.isHot, carrier.isWarm) = (true, true) }
        #endif
        if carrier.passes || awaitsSecuring(carrier) {
            carrier.inFlight.receive = loop.readable(carrier.fd, carrier.token(.carrierReadable))
        } else if carrier.isSilent || carrier.mayBeIdle && !carrier.isWarm {
            if carrier.transport.channel?.hasUnread != true {
                carrier.inFlight.receive = loop.receivePooled(carrier.fd, carrier.token(.carrierReceivePooled))
            }
        } else if let room = target(carrier) {
            carrier.inFlight.receive = loop.receive(carrier.fd, room.baseAddress!, room.count, carrier.token(.carrierReceive))
        }
        if !carrier.inFlight.receive { carriers.retryLater(carrier) }
    }

    /// Client: connected, and TLS has not begun. The server has nothing to say before.
    private func awaitsSecuring(_ carrier: Carrier) -> Bool {
        carrier.state == .connected && relay.credentials != nil && carrier.transport.channel == nil
    }

    /// Where the kernel writes what arrives. Nil: no memory, or TLS has more to read first.
    private func target(_ carrier: Carrier) -> UnsafeMutableRawBufferPointer? {
        switch carrier.transport {
        case .plain: makeRoom(carrier) ? carrier.block.room : nil
        case .secure(let channel): channel.hasUnread ? nil : channel.target(relay, isHot: carrier.isHot)
        }
    }

    /// Room for a receive of some size, or for `count` bytes that are there. False: no memory.
    func makeRoom(_ carrier: Carrier, for count: Int = 0) -> Bool {
        let isLarge = (carrier.isHot || carrier.passes) && count == 0
        if let memory = carrier.block.memory {
            if carrier.block.parsed == carrier.block.filled, arena_references(relay.arena, memory) == 1 {
                carrier.block.parsed = 0
                carrier.block.filled = 0
            }
            let room = carrier.block.capacity - carrier.block.filled
            if count > 0
                ? room >= count
                : carrier.block.capacity == Int(SLAB_BYTES)
                    ? room >= Policy.slabRoomMinimum
                    : !isLarge && room >= (carrier.carriesBytes ? Policy.pageRoomMinimum : 1)
            {
                return true
            }
        }
        // The start of a frame that is not whole: at most a control frame.
        return replaceBlock(carrier, isLarge: isLarge || carrier.block.unread.count + count > Int(PAGE_BYTES))
    }

    /// Bytes that came over a subflow, behind those in the carrier's block. False: no memory.
    func append(_ bytes: UnsafeRawPointer, _ count: Int, to carrier: Carrier) -> Bool {
        guard makeRoom(carrier, for: count) else { return false }
        memcpy(carrier.block.room.baseAddress!, bytes, count)
        carrier.block.filled += count
        return true
    }

    /// What is unread moves into a fresh block. False: no memory.
    private func replaceBlock(_ carrier: Carrier, isLarge: Bool) -> Bool {
        guard let next = isLarge ? arena_slab(relay.arena) : arena_page(relay.arena) else { return false }
        let rest = carrier.block.unread.count
        if rest > 0 { memcpy(next, carrier.block.unread.baseAddress!, rest) }
        releaseBlock(carrier)
        carrier.block = Carrier.Block(memory: next, capacity: isLarge ? Int(SLAB_BYTES) : Int(PAGE_BYTES), filled: rest)
        budget.arm(carrier.block.capacity)
        return true
    }

    func releaseBlock(_ carrier: Carrier) {
        guard let memory = carrier.block.memory else { return }
        budget.disarm(carrier.block.capacity)
        arena_release(relay.arena, memory)
        carrier.block = Carrier.Block()
    }

    /// A carrier that is not busy holds a page at most, while something came in the last second; later the start of a frame at most.
    func shrinkBlock(_ carrier: Carrier) {
        guard !carrier.isUnfinished, carrier.block.capacity > Int(PAGE_BYTES) || !carrier.isWarm else { return }
        let rest = carrier.block.unread.count
        if rest == 0 {
            releaseBlock(carrier)
        } else if carrier.block.capacity > Int(PAGE_BYTES), rest <= Int(PAGE_BYTES) {
            _ = replaceBlock(carrier, isLarge: false)
        }
    }

    /// The same for what TLS receives into, when nothing in it is unread.
    private func shrinkIn(_ carrier: Carrier) {
        shrinkBlock(carrier)
        if let channel = carrier.transport.channel, !channel.hasUnread { channel.releaseIn(relay) }
    }

    private func received(_ carrier: Carrier, _ result: Int32) {
        guard result > 0 else { return failed(carrier, result) }
        let fast = carrier.isHot ? Policy.carrierColdBelow : carrier.transport.channel == nil ? Int32(carrier.block.room.count) : Int32(PAGE_BYTES)
        noteArrival(carrier, isFast: result >= fast)
        switch carrier.transport {
        case .plain:
            let wasFull = Int(result) == carrier.block.room.count
            carrier.block.filled += Int(result)
            read(carrier)
            if let session = carrier.session, session.carrier === carrier { receiveSplice.notePayload(carrier, session, wasFull: wasFull) }
            if !carrier.isHot, carrier.mayBeIdle { shrinkBlock(carrier) }
        case .secure(let channel):
            if carrier.state == .securing { relay.client?.handleHeard(carrier) }
            channel.arrived(Int(result), now: relay.now)
            security.open(carrier, channel)
        }
        readers.append(carrier)
    }

    /// A receive brought nothing.
    private func failed(_ carrier: Carrier, _ result: Int32) {
        let error = SystemError(-result)
        if result < 0, error.isPassing {
            if !carrier.isHot, carrier.mayBeIdle { shrinkIn(carrier) }
            return readers.append(carrier)
        }
        if result < 0, error.isShortage { return carriers.retryLater(carrier) }
        if result == 0, carriers.ended(carrier) { return }
        carriers.lost(carrier, result == 0 ? "closed by the other side" : error.description)
    }

    /// Bytes of an idle carrier, which lie in the pool.
    private func receivedPooled(_ carrier: Carrier, _ bytes: UnsafeRawPointer, _ count: Int) {
        let wasFull = count == Policy.poolByteCount
        carrier.quickArrivals = relay.age(of: carrier.arrivedAt) < Policy.hotMaximum.nanoseconds ? carrier.quickArrivals + 1 : 0
        if carrier.quickArrivals >= Policy.busyArrivals { keepWarm(carrier) }
        noteArrival(carrier, isFast: wasFull)
        switch carrier.transport {
        case .plain:
            guard !carrier.isSilent else { return carriers.broken(carrier) }
            // They cannot wait here. The peer repeats them on the next carrier.
            guard makeRoom(carrier, for: count) else { return carriers.lost(carrier, "out of memory") }
            memcpy(carrier.block.room.baseAddress!, bytes, count)
            carrier.block.filled += count
            read(carrier)
            if let session = carrier.session, session.carrier === carrier { receiveSplice.notePayload(carrier, session, wasFull: wasFull) }
            if !carrier.isOver { shrinkBlock(carrier) }
        case .secure(let channel):
            guard channel.take(bytes, count, relay) else { return carriers.lost(carrier, "out of memory") }
            channel.arrived(count, now: relay.now)
            security.open(carrier, channel)
            if !carrier.isOver, !channel.hasUnread { channel.releaseIn(relay) }
        }
        readers.append(carrier)
    }

    /// `isFast`: a slab is worth having.
    private func noteArrival(_ carrier: Carrier, isFast: Bool) {
        carrier.arrivedAt = relay.now
        guard isFast != carrier.isHot, carrier.carriesBytes else { return }
        guard isFast else { return becomeCold(carrier) }
        guard hotCount < hotMaximum else { return }
        keepWarm(carrier)
        carrier.isHot = true
        hotCount += 1
    }

    private func becomeCold(_ carrier: Carrier) {
        guard carrier.isHot else { return }
        carrier.isHot = false
        hotCount -= 1
    }

    /// It holds memory that it releases when it goes quiet.
    func keepWarm(_ carrier: Carrier) {
        guard !carrier.isWarm else { return }
        carrier.isWarm = true
        if hot.isEmpty { relay.timers.set(Operation.carriersCoolDown.token(), at: relay.now + Policy.hotMaximum.nanoseconds) }
        hot.append(carrier)
    }

    func handleCoolDown() {
        hot.removeAll { carrier in
            guard !carrier.isOver else { return true }
            guard relay.now > carrier.arrivedAt + Policy.hotMaximum.nanoseconds, !carrier.inFlight.send else { return false }
            carrier.isWarm = false
            if carrier.passes {
                if carrier.block.unread.isEmpty { releaseBlock(carrier) }
            } else {
                becomeCold(carrier)
                // Its receive ends as cancelled, and the next one is pooled.
                if carrier.inFlight.receive { loop.cancel(carrier.fd) }
            }
            return true
        }
        if !hot.isEmpty { relay.timers.set(Operation.carriersCoolDown.token(), at: relay.now + Policy.hotMaximum.nanoseconds) }
    }

    /// It brought more streams that begin or are reset than one turn is for: the rest is read in the next.
    func postpone(_ carrier: Carrier) {
        guard !carrier.isUnfinished else { return }
        carrier.isUnfinished = true
        readLater(carrier)
    }

    /// It waits with bytes in its block, which are read in the next iteration.
    func readLater(_ carrier: Carrier) {
        assert(carrier.isUnfinished, "a carrier that does not wait")
        unfinished.append(carrier)
    }

    var hasUnfinished: Bool { !unfinished.isEmpty }

    /// Carriers whose bytes were not all read in the turn before.
    func readOn() {
        guard hasUnfinished else { return }
        let waiting = unfinished
        unfinished.removeAll(keepingCapacity: true)
        for carrier in waiting {
            carrier.isUnfinished = false
            guard !carrier.isOver else { continue }
            read(carrier)
            carrier.subflows?.readOn()
            guard !carrier.isOver, !carrier.isUnfinished else { continue }
            if let channel = carrier.transport.channel { security.open(carrier, channel) } else if !carrier.isHot { shrinkBlock(carrier) }
            readers.append(carrier)
        }
    }

    /// Bytes that came before this loop had the carrier.
    func read(_ carrier: Carrier, _ bytes: [UInt8]) {
        let hasRoom = bytes.withUnsafeBytes { $0.isEmpty || append($0.baseAddress!, $0.count, to: carrier) }
        guard hasRoom else { return carriers.lost(carrier, "out of memory") }
        read(carrier)
        if !carrier.isOver, carrier.mayBeIdle { shrinkBlock(carrier) }
        readers.append(carrier)
    }

    /// Reads all that is whole, within what one turn is for.
    func read(_ carrier: Carrier) {
        if !carrier.carriesBytes { relay.host.readHandshake(carrier) }
        if carrier.state == .subflow { return carrier.share?.carrier.subflows?.read(carrier) ?? () }
        guard carrier.state == .established, let session = carrier.session, session.carrier === carrier else { return }
        sessions.markDirty(session)
        let start = carrier.block.parsed
        var allowance = Policy.openingsAtOnce
        while carrier.block.parsed < carrier.block.filled {
            guard allowance > 0 else {
                postpone(carrier)
                break
            }
            let base = carrier.block.memory! + carrier.block.parsed
            var offset = 0
            let event: Received
            do throws(ProtocolFault) {
                event = try session.endpoint.receive(carrier.block.unread.bytes, at: &offset, now: relay.instant)
            } catch {
                return sessions.violated(session, error)
            }
            carrier.block.parsed += offset
            switch event {
            case .incomplete: break
            case .opened, .reset: allowance -= 1
            case .payload, .finished, .closed, .spread: break
            }
            if case .incomplete = event { break }
            guard act(event, session, base) else { return }
        }
        session.endpoint.heard(now: relay.instant)
        if carrier.block.parsed > start { relay.server?.handleProven(session) }
        sessions.noteLife(session)
    }

    /// False: the session is over.
    private func act(_ event: Received, _ session: Session, _ base: UnsafeMutableRawPointer) -> Bool {
        switch event {
        case .incomplete:
            break
        case .payload(let owner, let range):
            guard localWriter.deliver(owner, base + range.lowerBound, range.count) else {
                relay.events.note(.outOfMemory(session, what: "bytes that were promised room"))
                sessions.end(session, .exhausted, "out of memory")
                return false
            }
        case .opened(let slot, let target):
            relay.host.handleOpened(session, slot, target: target)
        case .finished(let owner):
            localWriter.finish(owner)
        case .reset(let owner, let code):
            let mapping = code == .reset ? "" : relay.mapping(at: relay.locals[owner].pointee.mapping)?.name ?? ""
            relay.events.note(.streamReset(session, code, mapping: mapping))
            relay.client?.handleStreamReset(owner, code)
            // First: the endpoint does not know the owner any more, so the session's end would not end it.
            relay.locals.abortOutbound(owner)
        case .closed(let code, let reason):
            sessions.peerClosed(session, code, reason)
            return false
        case .spread:
            guard let carrier = session.carrier, sessions.spread(session, carrier) else { return false }
        }
        return true
    }
}
