import Control
import CSlab
import Glibc
import Loop
import Time
import Tunnel

/// Reads local sockets: their bytes go towards the session.
///
/// Most sockets share a pool of small buffers, so an idle one holds nothing. One whose bytes come fast receives into a slab
/// of its own, where its bytes stay until they are acknowledged.
final class LocalReader {
    unowned(unsafe) private let relay: RelayProcess
    private let loop: Loop
    private let budget: Budget
    private let sessions: Sessions
    private let table: LocalTable
    private let sendSplice: SendSplice
    /// Sockets to re-arm, after this iteration's sends are queued: the bytes that arrived last are sent while they are in
    /// the cache.
    private var readers: [UInt32] = []
    /// Sockets that receive into slabs of their own; more than `hotMaximum` share the pool.
    private var hot: [UInt32] = []
    private let hotMaximum: Int
    /// Sessions with readers that wait for memory.
    private var blockedSessions: [Session] = []
    /// Where receives without the loop put what they bring.
    private let scratch = UnsafeMutableRawPointer.allocate(byteCount: Policy.poolByteCount, alignment: 16)

    init(_ relay: RelayProcess, _ table: LocalTable, _ sendSplice: SendSplice) {
        (self.relay, self.table, self.sendSplice) = (relay, table, sendSplice)
        (loop, budget, sessions) = (relay.loop, relay.budget, relay.sessions)
        hotMaximum = max(4, min(Policy.hotUsersMaximum, relay.configuration.bufferByteCount / 8 / Int(SLAB_BYTES)))
    }

    deinit { scratch.deallocate() }

    private var locals: LocalSockets { relay.locals }

    /// The socket is armed at the end of this iteration, if it may be read.
    func readAgain(_ index: UInt32) { readers.append(index) }

    /// Starts a receive if there is room for what it may bring; otherwise the socket is blocked until there is.
    func arm(_ index: UInt32) {
        let user = table[index]
        guard user.pointee.fd >= 0, user.pointee.life.mayReceive, !relay.handover.isUnderWay, !user.pointee.lists.contains(.blocked),
            let session = user.pointee.session?.takeUnretainedValue()
        else { return }
        var most = Policy.poolByteCount
        if user.pointee.inboundCount > 0 || user.pointee.lists.contains(.hot) || !budget.isRoomy(session.account) {
            let share = budget.share(
                session.account, user.pointee.inboundCount, credit: session.endpoint.credit(user.pointee.slot),
                users: session.userCount, isHealthy: session.isHealthy)
            // Its own bytes are sequenced first (`Sessions.movePayload`); and very short receives cost more than they bring.
            let piece = user.pointee.lists.contains(.hot) ? Policy.slabRoomMinimum : Policy.pieceMinimum
            guard share >= (user.pointee.inboundCount == 0 ? 1 : piece) else { return }
            most = min(share, room(session))
            #if CANARIES
            if Canary.selected == .readsBeyondBudget { most = 1 << 20 }
            #endif
            guard most > 0 else { return block(index, user, session) }
        }
        if user.pointee.lists.contains(.spliced), sendSplice.awaitTurn(index, user, session) { return }
        guard start(index, user, session, most) else {
            becomeCold(index, user)
            return locals.retryLater(index)
        }
    }

    /// A receive into the user's own slab, into the pool, or, where what an idle user might bring cannot be set apart, one that
    /// starts when bytes are there. False: the ring has no room.
    private func start(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ session: Session, _ most: Int) -> Bool {
        let isArmed: Bool
        if user.pointee.lists.contains(.hot), most >= Policy.poolByteCount, let block = slab(for: user) {
            user.pointee.armedAt = relay.now
            isArmed = loop.receive(
                user.pointee.fd, block + user.pointee.filled,
                min(Policy.directByteCount - user.pointee.filled, most), table.token(index, .userReceive))
        } else if user.pointee.lists.contains(.readable), relay.ledger != nil {
            user.pointee.lists.remove(.readable)
            // A successor must find the bytes: the ring knows where it puts them.
            guard let memory = arena_keep(relay.arena, Policy.poolByteCount) else { return false }
            user.pointee.small = memory
            isArmed = loop.receive(user.pointee.fd, memory, min(most, Policy.poolByteCount), table.token(index, .userReceive))
            if !isArmed { releaseSmall(user) }
        } else if user.pointee.lists.contains(.readable) {
            user.pointee.lists.remove(.readable)
            receiveNow(index, user, most)
            return true
        } else if most >= Policy.poolByteCount, budget.expect(Policy.poolByteCount, &session.account) {
            user.pointee.lists.insert(.expecting)
            isArmed = loop.receivePooled(user.pointee.fd, table.token(index, .userReceivePooled))
            if !isArmed { endExpecting(user) }
        } else {
            isArmed = loop.readable(user.pointee.fd, table.token(index, .userReadable))
        }
        if isArmed { user.pointee.life.submitted(.receive) }
        return isArmed
    }

    /// Bytes are there, and `most` of them may be read.
    private func receiveNow(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ most: Int) {
        switch Socket.receive(user.pointee.fd, scratch, min(most, Policy.poolByteCount)) {
        case .success(let count): received(index, user, Int32(count), from: scratch)
        case .failure(let error): received(index, user, -error.code, from: nil)
        }
    }

    func releaseSmall(_ user: UnsafeMutablePointer<LocalSocket>) {
        guard let memory = user.pointee.small else { return }
        user.pointee.small = nil
        arena_unkeep(relay.arena, memory, Policy.poolByteCount)
    }

    func endExpecting(_ user: UnsafeMutablePointer<LocalSocket>) {
        guard user.pointee.lists.contains(.expecting), let session = user.pointee.session?.takeUnretainedValue() else { return }
        user.pointee.lists.remove(.expecting)
        budget.unexpect(Policy.poolByteCount, &session.account)
    }

    /// What the session's users may bring. Beside the counts, blocks that are in use count: short pieces take a page each.
    private func room(_ session: Session) -> Int {
        let room = budget.room(session.account)
        guard session.account.held >= session.account.guaranteed else { return room }
        return min(room, relay.configuration.memoryByteCount - arena_used(relay.arena))
    }

    /// Re-arms the receives of sockets that were read, or may be read again.
    func armAll() {
        var next = 0
        while next < readers.count {
            arm(readers[next])
            next += 1
        }
        readers.removeAll(keepingCapacity: true)
    }

    /// `bytes`: where they lie, outside the arena. Nil: in the user's own slab.
    func received(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ result: Int32, from bytes: UnsafeRawPointer?) {
        guard user.pointee.life.phase == .open, user.pointee.life.inward == .open,
            let session = user.pointee.session?.takeUnretainedValue()
        else { return }
        if result > 0 {
            let count = Int(result)
            guard append(index, user, count, from: bytes) else {
                relay.events.note(.outOfMemory(session, what: "a user's bytes, connection reset"))
                session.endpoint.reset(user.pointee.slot, .tooMany, now: relay.instant)
                return locals.close(index, .reset)
            }
            budget.holdUnplaced(count, &session.account)
            table.traffic.read(user.pointee.mapping, count)
            user.pointee.readCount += UInt64(count)
            session.endpoint.write(user.pointee.slot, count)
            sessions.markDirty(session)
            readers.append(index)
        } else if result == 0 {
            user.pointee.life.receivedFin()
            becomeCold(index, user)
            session.endpoint.finish(user.pointee.slot)
            sessions.markDirty(session)
            locals.watch(index, user)
        } else {
            let error = SystemError(-result)
            if error.isPassing || error.isShortage {
                becomeCold(index, user)
                return error.isShortage ? locals.retryLater(index) : readers.append(index)
            }
            locals.userReset(index, user, session)
        }
    }

    /// Bytes of ours that go before those of the user. False: no memory.
    func prepend(_ bytes: [UInt8], _ index: UInt32) -> Bool {
        let user = table[index]
        guard let session = user.pointee.session?.takeUnretainedValue(),
            bytes.withUnsafeBytes({
                queue_append_copy(&user.pointee.inbound, relay.arena, $0.baseAddress, $0.count)
            }) == 0
        else { return false }
        budget.holdUnplaced(bytes.count, &session.account)
        session.endpoint.write(user.pointee.slot, bytes.count)
        return true
    }

    private func append(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ count: Int, from bytes: UnsafeRawPointer?) -> Bool {
        if let bytes {
            let failed = queue_append_copy(&user.pointee.inbound, relay.arena, bytes, count)
            if count == Policy.poolByteCount { becomeHot(index, user) }
            sendSplice.noteReceive(index, user, count)
            return failed == 0
        }
        let failed = queue_append_block(&user.pointee.inbound, relay.arena, user.pointee.block! + user.pointee.filled, count)
        user.pointee.filled += count
        sendSplice.noteReceive(index, user, count)
        if count < Policy.coldBelow { becomeCold(index, user) }
        return failed == 0
    }

    // MARK: Memory

    private func block(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>, _ session: Session) {
        user.pointee.lists.insert(.blocked)
        session.readBlocked.append(index)
        // A slab counts as armed: blocked sockets that kept theirs would leave no room for each other.
        becomeCold(index, user)
        guard !session.isReadBlocked else { return }
        session.isReadBlocked = true
        if blockedSessions.isEmpty {
            relay.timers.set(Operation.readersRetry.token(), at: relay.now + Policy.blockedRetry.nanoseconds)
        }
        blockedSessions.append(session)
    }

    /// Memory was freed: blocked readers try again in turn, as far as it reaches.
    func wake(_ session: Session) {
        var next = 0
        while next < session.readBlocked.count, room(session) > 0 {
            let index = session.readBlocked[next]
            next += 1
            let user = table[index]
            guard user.pointee.fd >= 0, user.pointee.lists.contains(.blocked),
                user.pointee.session?.toOpaque() == Unmanaged.passUnretained(session).toOpaque()
            else { continue }
            user.pointee.lists.remove(.blocked)
            arm(index)
        }
        if next > 0 { session.readBlocked.removeFirst(next) }
    }

    /// More may be held now than while the carrier worked: also users who stood at their share are read on. Linear in the session's
    /// users, once in an outage.
    func readOn(_ session: Session) {
        wake(session)
        session.endpoint.forEachOwner { readers.append($0) }
    }

    /// Readers of every session: memory that one session freed is room for all.
    func wakeAll() {
        for session in blockedSessions where !session.isEnded { wake(session) }
        blockedSessions.removeAll { session in
            guard session.isEnded || session.readBlocked.isEmpty else { return false }
            session.isReadBlocked = false
            return true
        }
    }

    func handleRetry() {
        wakeAll()
        if !blockedSessions.isEmpty {
            relay.timers.set(Operation.readersRetry.token(), at: relay.now + Policy.blockedRetry.nanoseconds)
        }
    }

    // MARK: Hot and cold

    private func slab(for user: UnsafeMutablePointer<LocalSocket>) -> UnsafeMutableRawPointer? {
        if let block = user.pointee.block {
            if arena_references(relay.arena, block) == 1 { user.pointee.filled = 0 }
            if Policy.directByteCount - user.pointee.filled >= Policy.slabRoomMinimum { return block }
            releaseBlock(user)
        }
        guard let block = arena_slab(relay.arena) else { return nil }
        budget.arm(Int(SLAB_BYTES))
        user.pointee.block = block
        user.pointee.filled = 0
        return block
    }

    private func becomeHot(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        guard !user.pointee.lists.contains(.hot), hot.count < hotMaximum else { return }
        user.pointee.lists.insert(.hot)
        if hot.isEmpty { relay.timers.set(Operation.coolDown.token(), at: relay.now + Policy.hotMaximum.nanoseconds) }
        hot.append(index)
    }

    func becomeCold(_ index: UInt32, _ user: UnsafeMutablePointer<LocalSocket>) {
        if user.pointee.lists.contains(.hot) {
            user.pointee.lists.remove(.hot)
            hot.removeAll { $0 == index }
        }
        if !user.pointee.life.inFlight.contains(.receive) { releaseBlock(user) }
    }

    private func releaseBlock(_ user: UnsafeMutablePointer<LocalSocket>) {
        guard let block = user.pointee.block else { return }
        budget.disarm(Int(SLAB_BYTES))
        arena_release(relay.arena, block)
        user.pointee.block = nil
    }

    /// Hot sockets that have gone quiet, or stand at their share, release their slabs: an idle stream holds no buffer, and the streams of a
    /// session that waits for its client for days would leave no room for others.
    func handleCoolDown() {
        var cooled: [UInt32] = []
        for index in hot {
            let user = table[index]
            guard relay.age(of: user.pointee.armedAt) > Policy.hotMaximum.nanoseconds else { continue }
            let inFlight = user.pointee.life.inFlight
            // A cancel ends a send as well.
            guard inFlight == .receive || !inFlight.contains(.receive) else { continue }
            user.pointee.lists.remove(.hot)
            cooled.append(index)
            if inFlight == .receive {
                loop.cancel(user.pointee.fd)  // Completes as cancelled and is armed again from the pool.
            } else {
                releaseBlock(user)
            }
        }
        hot.removeAll { cooled.contains($0) }
        if !hot.isEmpty { relay.timers.set(Operation.coolDown.token(), at: relay.now + Policy.hotMaximum.nanoseconds) }
    }
}
