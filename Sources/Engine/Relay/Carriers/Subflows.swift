import Glibc
import Loop
import Tunnel
import Wire

/// The further connections of a carrier, over which its bytes go together (docs/protocol.md 4.28): each TCP connection has a congestion window of
/// its own, so on a path that loses packets several carry more than one does.
///
/// To everybody else they are one carrier. Its bytes, whatever they are, are cut into chunks, and each chunk goes over a subflow that has room.
/// When one of them is lost, the carrier is lost, and the session continues on another as after any outage. The carrier's own connection says
/// nothing after SUBFLOWS; its end is still the carrier's end.
final class Subflows {
    unowned(unsafe) private let relay: RelayProcess
    unowned(unsafe) private let carrier: Carrier
    private(set) var all: [Carrier] = []
    /// Bits of the numbers that were used: each at most once for a carrier, or whoever has seen a HELLO could say it once more.
    private var numbers: UInt64 = 0
    /// Bytes that were cut into chunks.
    private var cut: UInt64 = 0
    private var order = ChunkOrder()
    /// The subflow that is asked first whether it has room.
    private var turn = 0
    /// What the carrier has to send goes in chunks.
    private(set) var sends = false
    /// What it brings comes in chunks.
    private(set) var receives = false

    init(_ relay: RelayProcess, _ carrier: Carrier) { (self.relay, self.carrier) = (relay, carrier) }

    // MARK: Beginnings and ends

    /// Whether a subflow of this number may still join.
    func mayJoin(_ number: UInt64) -> Bool {
        number >= 1 && number <= Specification.subflowNumberMaximum && numbers & 1 << number == 0 && all.count < Specification.subflowsMaximum
    }

    /// The smallest number that was not used. Nil: all were.
    var freeNumber: UInt64? { (1...Specification.subflowNumberMaximum).first { numbers & 1 << $0 == 0 } }

    func use(_ number: UInt64) { numbers |= 1 << number }

    func join(_ subflow: Carrier, number: UInt64) {
        use(number)
        subflow.state = .subflow
        subflow.session = carrier.session
        subflow.share = Carrier.Share(of: carrier)
        all.append(subflow)
        relay.carriers.noteJoined()
        // It may be idle for long, and then nobody asks for it.
        if !subflow.peer.isLoopback { Socket.keepAlive(subflow.fd, idle: Policy.standbyIdleSeconds) }
        if all.count == 1, !carrier.peer.isLoopback { Socket.keepAlive(carrier.fd, idle: Policy.standbyIdleSeconds) }
        subflow.widenReceive()
        // What the kernel holds of one waits for that one, and others for what is in it.
        if !subflow.isLoopback { Socket.setTCP(subflow.fd, CarrierTuning.TCPOption.notSentLowWater, Int32(Policy.chunkByteCount)) }
        markDirty()
    }

    /// Its descriptor is closed.
    func forget(_ subflow: Carrier) { all.removeAll { $0 === subflow } }

    /// A connection of the carrier has ended in order. Others may still bring what was sent before.
    func ended(_ connection: Carrier) {
        connection.hasEnded = true
        guard !carrier.hasEnded || !all.allSatisfy(\.hasEnded) else { return relay.carriers.lost(carrier, "closed by the other side") }
        relay.timers.set(carrier.token(.carrierDeadline), at: relay.now + Policy.lastWordsMaximum.nanoseconds)
    }

    private func markDirty() { if let session = carrier.session { relay.sessions.markDirty(session) } }

    // MARK: What leaves

    /// SUBFLOWS has been handed over.
    func beginSending() { sends = true }

    /// There is a subflow that takes a chunk. N streams take no more of a path than N connections: only so many subflows are used.
    var hasRoom: Bool { !sends || free != nil }

    /// Something that counts as sent is not in the kernel yet.
    var hasUnsent: Bool { all.contains { $0.share?.isIdle == false } }

    private var used: Int { min(all.count, max(1, carrier.session?.endpoint.streamCount ?? 1)) }

    private var free: Int? {
        guard let session = carrier.session else { return nil }
        let count = used
        for step in 0..<count {
            let place = (turn + step) % count
            if isFree(all[place]), relay.carriers.writer.room(all[place], session) > 0 { return place }
        }
        return nil
    }

    private func isFree(_ subflow: Carrier) -> Bool {
        subflow.share?.isIdle == true && !subflow.isOver && subflow.greeting.isSent && !subflow.inFlight.send && !subflow.isRefused && subflow.isClear
    }

    /// The first of the bytes become a chunk of a subflow that has room. Returns how many: they count as sent.
    func send(_ iovecs: UnsafePointer<iovec>, _ count: Int) -> Int {
        guard let place = free, let share = all[place].share else { return 0 }
        turn = place + 1
        let taken = share.fill(iovecs, count, offset: cut)
        cut += UInt64(taken)
        goOn(all[place])
        return taken
    }

    /// Hands over what is left of a subflow's chunk.
    func goOn(_ subflow: Carrier) {
        guard let share = subflow.share, !share.isIdle, !subflow.inFlight.send, !subflow.isRefused, subflow.isClear else { return }
        var vector = share.unsent
        if let channel = subflow.transport.channel {
            guard channel.seal(&vector, 1, relay) else { return relay.carriers.writer.refuse(subflow) }
            return relay.carriers.security.sendSealed(subflow, channel)
        }
        subflow.inFlight.send = relay.loop.send(subflow.fd, &vector, 1, subflow.token(.carrierSend))
        if !subflow.inFlight.send { relay.carriers.writer.refuse(subflow) }
    }

    /// The kernel has `count` bytes more of a subflow's chunk.
    func sent(_ subflow: Carrier, _ count: Int) {
        guard let share = subflow.share else { return }
        share.sent(count)
        guard share.isIdle else { return goOn(subflow) }
        markDirty()
    }

    // MARK: What comes

    /// SUBFLOWS was read, and nothing behind it. The first chunk may be there already.
    func beginReceiving() {
        receives = true
        readOn()
    }

    /// A subflow has brought something. What is not next is kept, so that the subflow is read all the same: TCP acknowledges late what nobody
    /// reads, and the sender would be slower for it. When too much is kept, it waits in the subflow's socket.
    ///
    /// What is read may end the session, and with it every other reference to the carrier.
    func read(_ subflow: Carrier) { withExtendedLifetime(carrier) { readHeld(subflow) } }

    private func readHeld(_ subflow: Carrier) {
        guard let share = subflow.share else { return }
        share.isWoken = false
        if share.waiting.isEmpty { deliver(subflow, share) }
        guard !subflow.isOver, !carrier.isOver else { return }
        if !subflow.block.unread.isEmpty, share.chunk != nil || !share.waiting.isEmpty {
            if hasRoomForMore { keep(subflow, share) } else { subflow.isUnfinished = true }
        }
        readOnHeld()
    }

    /// Reads on while some subflow has what is next; called after each change of what that is, and when the carrier has been read to its end.
    func readOn() { withExtendedLifetime(carrier) { readOnHeld() } }

    private func readOnHeld() {
        while !carrier.isOver, !carrier.isUnfinished, receives {
            if all.contains(where: { $0.share?.chunk.map(order.isPast) == true }) {
                return violated(ProtocolFault("a chunk repeats what was sent before"))
            }
            guard let next = all.first(where: isDue), let share = next.share else { break }
            deliver(next, share)
        }
        guard !carrier.isOver else { return }
        // Those that waited in their sockets are read again.
        for subflow in all where subflow.isUnfinished {
            guard let share = subflow.share, !share.isWoken, hasRoomForMore else { continue }
            keep(subflow, share)
            share.isWoken = true
            relay.carriers.reader.readLater(subflow)
        }
    }

    private var hasRoomForMore: Bool {
        relay.carriers.waitingByteCount < relay.configuration.memoryByteCount / Policy.waitingPart
            && all.reduce(0) { $0 + ($1.share?.waiting.count ?? 0) } < Policy.waitingMaximum
    }

    private func isDue(_ subflow: Carrier) -> Bool {
        guard let share = subflow.share, let chunk = share.chunk, !subflow.isOver else { return false }
        return order.isDue(chunk) && (!share.waiting.isEmpty || !subflow.block.unread.isEmpty)
    }

    /// What lies in the subflow's block lies behind what waits.
    private func keep(_ subflow: Carrier, _ share: Carrier.Share) {
        let bytes = subflow.block.unread
        share.waiting.append(bytes)
        relay.carriers.waitingByteCount += bytes.count
        subflow.block.parsed = subflow.block.filled
    }

    /// Passes on what the subflow has of the bytes that are next.
    private func deliver(_ subflow: Carrier, _ share: Carrier.Share) {
        if !share.waiting.isEmpty, !subflow.block.unread.isEmpty { keep(subflow, share) }
        while !subflow.isOver, !carrier.isOver {
            let isKept = !share.waiting.isEmpty
            let bytes = isKept ? share.waiting.bytes : subflow.block.unread
            func take(_ count: Int) {
                guard isKept else { return subflow.block.parsed += count }
                share.waiting.removeFirst(count)
                relay.carriers.waitingByteCount -= count
            }
            guard var chunk = share.chunk else {
                guard let header = header(in: bytes) else { return }
                take(ChunkHeader.encodedByteCount)
                share.chunk = header
                continue
            }
            guard receives, !carrier.isUnfinished, order.isDue(chunk) else { return }
            let count = min(bytes.count, chunk.byteCount)
            guard count > 0 else { return }
            guard relay.carriers.reader.append(bytes.baseAddress!, count, to: carrier) else { return relay.carriers.lost(carrier, "out of memory") }
            take(count)
            share.chunk = order.read(count, of: &chunk) ? nil : chunk
            relay.carriers.reader.read(carrier)
        }
    }

    private func header(in bytes: UnsafeRawBufferPointer) -> ChunkOrder.Chunk? {
        do throws(ProtocolFault) {
            guard let header = try ChunkHeader.decode(bytes.bytes) else { return nil }
            return try order.begin(header)
        } catch {
            violated(error)
            return nil
        }
    }

    private func violated(_ fault: ProtocolFault) { if let session = carrier.session { relay.sessions.violated(session, fault) } }
}

extension Carrier {
    /// What a subflow is of its carrier, and the chunks that it sends and brings.
    final class Share {
        let carrier: Carrier
        /// What it brings next, when its header has been read.
        var chunk: ChunkOrder.Chunk?
        /// Its socket was not read for a while; it will be in the next iteration.
        var isWoken = false
        /// What it has brought too early.
        let waiting = Waiting()
        /// Its chunk. A subflow that is idle has none.
        private var buffer = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        private var filled = 0
        private var sentCount = 0

        init(of carrier: Carrier) { self.carrier = carrier }

        deinit { buffer.deallocate() }

        /// Its chunk has left.
        var isIdle: Bool { sentCount == filled }

        /// The first bytes become its next chunk. Returns how many.
        func fill(_ iovecs: UnsafePointer<iovec>, _ count: Int, offset: UInt64) -> Int {
            precondition(isIdle, "a chunk over another")
            buffer = .allocate(byteCount: ChunkHeader.encodedByteCount + Policy.chunkByteCount, alignment: 8)
            var end = ChunkHeader.encodedByteCount
            for vector in UnsafeBufferPointer(start: iovecs, count: count) where end < buffer.count {
                let part = min(vector.iov_len, buffer.count - end)
                memcpy(buffer.baseAddress! + end, vector.iov_base, part)
                end += part
            }
            let taken = end - ChunkHeader.encodedByteCount
            precondition(taken > 0, "a chunk of nothing")
            var writer = ByteWriter(buffer)
            ChunkHeader(offset: offset, byteCount: taken).encode(into: &writer)
            (filled, sentCount) = (end, 0)
            return taken
        }

        var unsent: iovec { iovec(iov_base: buffer.baseAddress! + sentCount, iov_len: filled - sentCount) }

        func sent(_ count: Int) {
            sentCount += count
            precondition(sentCount <= filled, "more was sent than there is")
            guard isIdle else { return }
            buffer.deallocate()
            (buffer, filled, sentCount) = (UnsafeMutableRawBufferPointer(start: nil, count: 0), 0, 0)
        }
    }
}

/// Bytes that came too early, in their order.
final class Waiting {
    private var memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private var start = 0
    private var end = 0

    deinit { memory.deallocate() }

    var count: Int { end - start }
    var isEmpty: Bool { count == 0 }

    /// Valid until the next change.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[start..<end]) }

    func append(_ bytes: UnsafeRawBufferPointer) {
        if memory.count - end < bytes.count { makeRoom(for: bytes.count) }
        UnsafeMutableRawBufferPointer(rebasing: memory[end...]).copyMemory(from: bytes)
        end += bytes.count
    }

    /// Twice as much as is needed, so that each byte is moved a few times at most.
    private func makeRoom(for more: Int) {
        let fresh = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 * (count + more), alignment: 8)
        fresh.copyMemory(from: bytes)
        memory.deallocate()
        (memory, start, end) = (fresh, 0, count)
    }

    func removeFirst(_ count: Int) {
        start += count
        guard start == end else { return }
        memory.deallocate()
        (memory, start, end) = (UnsafeMutableRawBufferPointer(start: nil, count: 0), 0, 0)
    }
}
