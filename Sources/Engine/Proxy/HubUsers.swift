import CSlab
import Glibc
import Loop
import Tunnel
import Wire

/// The bytes of users: from their sockets towards the session, and from the session into their sockets.
extension Hub {
    static let poolByteCount = 16 << 10
    static let poolCount = 128
    /// A hot socket whose receive brings less than this is cold again.
    static let coldBelow = 2048
    /// A slab less a frame's header: with it, the bytes fill one receive of the peer, not one and a few bytes more.
    static let directByteCount = Int(SLAB_BYTES) - 64
    /// Room that a slab must have for another receive.
    static let slabRoomMinimum = 64 << 10
    /// Pieces shorter than this are copied into the store, longer ones referenced.
    static let copyBelow = 2048
    /// Payload shorter than this is copied out of a carrier's slab, so that a slow user does not pin it.
    static let outboundCopyBelow = 2048
    static let outboundCopyBelowWhenSlow = 16 << 10
    /// What a stream may hold while the carrier works: more would only add delay.
    static let inboundWhileAttached = 2 << 20

    func handleUser(_ operation: Operation, _ token: Token, _ completion: Completion) {
        guard let user = users.find(token.index, token.generation) else {
            if let buffer = completion.buffer { loop.returnToPool(buffer) }
            return
        }
        let index = token.index
        switch operation {
        case .userReceivePooled:
            user.pointee.flags.remove(.receiveSubmitted)
            received(index, user, completion.result, pooled: completion.buffer)
            if let buffer = completion.buffer { loop.returnToPool(buffer) }
        case .userReceive:
            user.pointee.flags.remove(.receiveSubmitted)
            received(index, user, completion.result, pooled: nil)
        case .userSend:
            user.pointee.flags.remove(.sendSubmitted)
            sent(index, user, completion.result)
        case .userWatch:
            user.pointee.flags.remove(.watchSubmitted)
            hungUp(index, user)
        case .userConnect:
            user.pointee.flags.remove(.connectSubmitted)
            if !user.pointee.flags.contains(.closing) { server?.handleOriginConnected(index, completion.error) }
        default:
            break
        }
        settle(index, user)
    }

    // MARK: From the user

    /// Receives when there is room for what comes; notes the user as blocked when there is not.
    func armReceive(_ index: UInt32) {
        let user = users[index]
        guard user.pointee.fd >= 0 else { return }
        guard user.pointee.mayReceive, let session = user.pointee.session?.takeUnretainedValue() else { return }
        guard mayHold(session, user.pointee.inboundCount) else {
            user.pointee.flags.insert(.readBlocked)
            session.readBlocked.append(index)
            return
        }
        if user.pointee.flags.contains(.hot), let block = slab(for: user) {
            let memory = block + user.pointee.filled
            user.pointee.armedAt = now
            let token = Operation.userReceive.token(index, user.pointee.generation)
            guard loop.receive(user.pointee.fd, memory, Hub.directByteCount - user.pointee.filled, token) else {
                return retryLater(index)
            }
        } else {
            let token = Operation.userReceivePooled.token(index, user.pointee.generation)
            guard loop.receivePooled(user.pointee.fd, token) else { return retryLater(index) }
        }
        user.pointee.flags.insert(.receiveSubmitted)
    }

    private func retryLater(_ index: UInt32) {
        timers.add(Operation.sweep.token(), at: now + 10_000_000)
        becomeCold(index, users[index])
        if let session = users[index].pointee.session?.takeUnretainedValue() {
            users[index].pointee.flags.insert(.readBlocked)
            session.readBlocked.append(index)
        }
    }

    /// A full buffer means that tele stops reading that user. A stream may hold up to four times what is left of the
    /// budget, so that one can use most of it and a newcomer always finds some (dynamic threshold, Choudhury & Hahne).
    private func mayHold(_ session: SessionHost, _ inboundCount: Int) -> Bool {
        let free = min(configuration.bufferByteCount - session.heldByteCount,
                       configuration.memoryByteCount / 2 - heldByteCount)
        let isHealthy = session.endpoint.isAttached && !session.endpoint.isSuspected
        let most = isHealthy ? min(4 * free, Hub.inboundWhileAttached) : 4 * free
        return free > 0 && inboundCount < most
    }

    private func slab(for user: UnsafeMutablePointer<UserSocket>) -> UnsafeMutableRawPointer? {
        if let block = user.pointee.block {
            if arena_references(arena, block) == 1 { user.pointee.filled = 0 }
            if Hub.directByteCount - user.pointee.filled >= Hub.slabRoomMinimum { return block }
            arena_release(arena, block)
        }
        user.pointee.block = arena_slab(arena)
        user.pointee.filled = 0
        return user.pointee.block
    }

    private func received(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>, _ result: Int32, pooled: UInt16?) {
        guard user.pointee.flags.isDisjoint(with: [.closing, .flushing, .resetOwed]),
              user.pointee.flags.contains(.hasStream),
              let session = user.pointee.session?.takeUnretainedValue() else { return }
        if result > 0 {
            let count = Int(result)
            let failed: Int32
            if let pooled {
                failed = queue_append_copy(&user.pointee.inbound, arena, loop.poolBytes(pooled), count)
                if count == Hub.poolByteCount { becomeHot(index, user) }
            } else {
                failed = queue_append_block(&user.pointee.inbound, arena, user.pointee.block! + user.pointee.filled, count)
                user.pointee.filled += count
                if count < Hub.coldBelow { becomeCold(index, user) }
            }
            guard failed == 0 else {
                log.error("out of memory for a user's bytes, connection reset")
                session.endpoint.reset(user.pointee.slot, .tooMany, now: instant)
                return close(index, abort: true)
            }
            session.waitingByteCount += count
            heldByteCount += count
            session.endpoint.write(user.pointee.slot, count)
            markDirty(session)
            readers.append(index)
        } else if result == 0 {
            user.pointee.flags.insert(.readEnded)
            becomeCold(index, user)
            session.endpoint.finish(user.pointee.slot)
            markDirty(session)
            watch(index, user)
        } else {
            let error = SystemError(-result)
            if error.code == ECANCELED || error.code == ENOBUFS || error.code == EAGAIN || error.code == EINTR {
                becomeCold(index, user)
                armReceive(index)
            } else {
                userReset(index, user, session)
            }
        }
    }

    private func becomeHot(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>) {
        guard !user.pointee.flags.contains(.hot), hotUsers.count < maximumHotUsers else { return }
        user.pointee.flags.insert(.hot)
        if hotUsers.isEmpty { timers.add(Operation.sweep.token(), at: now + 1_000_000_000) }
        hotUsers.append(index)
    }

    private func becomeCold(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>) {
        if user.pointee.flags.contains(.hot) {
            user.pointee.flags.remove(.hot)
            hotUsers.removeAll { $0 == index }
        }
        releaseBlock(user)
    }

    private func releaseBlock(_ user: UnsafeMutablePointer<UserSocket>) {
        guard let block = user.pointee.block, !user.pointee.flags.contains(.receiveSubmitted) else { return }
        arena_release(arena, block)
        user.pointee.block = nil
    }

    /// Hot sockets that have gone quiet give their slabs back: an idle stream holds no buffer. Also wakes readers that
    /// waited for memory.
    func sweepHotUsers() {
        var cooled: [UInt32] = []
        for index in hotUsers {
            let user = users[index]
            if user.pointee.flags.contains(.receiveSubmitted), now - user.pointee.armedAt > 1_000_000_000,
               !user.pointee.flags.contains(.sendSubmitted) {
                user.pointee.flags.remove(.hot)
                cooled.append(index)
                loop.cancel(user.pointee.fd)  // Completes as cancelled and is armed again from the pool.
            }
        }
        hotUsers.removeAll { cooled.contains($0) }
        if !hotUsers.isEmpty { timers.add(Operation.sweep.token(), at: now + 1_000_000_000) }
        for session in sessions.all where !session.readBlocked.isEmpty { markDirty(session) }
    }

    /// The user's connection was reset, or refuses bytes. What it wrote before goes first, as far as credit covers it.
    private func userReset(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>, _ session: SessionHost) {
        markDirty(session)
        if user.pointee.inboundCount > 0, !user.pointee.flags.contains(.readEnded),
           session.endpoint.isCovered(user.pointee.slot) {
            user.pointee.flags.insert(.resetOwed)
            return
        }
        session.endpoint.reset(user.pointee.slot, .reset, now: instant)
        close(index, abort: true)
    }

    /// After the user's FIN a reset of its would go unnoticed without a receive: watch for it.
    private func watch(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>) {
        guard user.pointee.flags.isDisjoint(with: [.watchSubmitted, .closing]) else { return }
        let token = Operation.userWatch.token(index, user.pointee.generation)
        if loop.watchHangup(user.pointee.fd, token) { user.pointee.flags.insert(.watchSubmitted) }
    }

    private func hungUp(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>) {
        guard user.pointee.flags.isDisjoint(with: [.closing, .flushing, .resetOwed]),
              user.pointee.flags.contains(.hasStream),
              let session = user.pointee.session?.takeUnretainedValue(),
              Socket.takeError(user.pointee.fd) != nil else { return }
        userReset(index, user, session)
    }

    // MARK: To the user

    /// Bytes of the peer for this user; they lie in a carrier's block.
    func deliver(_ index: UInt32, _ bytes: UnsafeMutableRawPointer, _ count: Int) -> Bool {
        let user = users[index]
        let isSlow = user.pointee.outboundCount > 0
        let copies = count < (isSlow ? Hub.outboundCopyBelowWhenSlow : Hub.outboundCopyBelow)
            || arena_used(arena) > configuration.memoryByteCount
        let failed = copies ? queue_append_copy(&user.pointee.outbound, arena, bytes, count)
            : queue_append_block(&user.pointee.outbound, arena, bytes, count)
        markDirty(index)
        return failed == 0
    }

    func flushUser(_ index: UInt32) {
        let user = users[index]
        user.pointee.flags.remove(.dirty)
        guard user.pointee.fd >= 0,
              user.pointee.flags.isDisjoint(with: [.connecting, .sendSubmitted, .closing, .flushing]) else { return }
        if user.pointee.outboundCount > 0 {
            submitSend(index, user, waiting: true)
        } else if user.pointee.flags.contains(.finishOwed), !user.pointee.flags.contains(.writeEnded) {
            Socket.shutdownWriting(user.pointee.fd)
            user.pointee.flags.insert(.writeEnded)
            guard let session = user.pointee.session?.takeUnretainedValue() else { return }
            if session.endpoint.drain(user.pointee.slot) {
                user.pointee.flags.remove(.hasStream)
                close(index, abort: false)
            }
        }
    }

    private func submitSend(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>, waiting: Bool) {
        var gathered = 0
        let count = queue_gather(&user.pointee.outbound, user.pointee.outbound.head, Hub.userSendByteCount, iovecs,
                                 UInt32(Hub.userIovecMaximum), &gathered)
        let token = Operation.userSend.token(index, user.pointee.generation)
        if loop.send(user.pointee.fd, iovecs, Int(count), waiting: waiting, token) {
            user.pointee.flags.insert(.sendSubmitted)
        } else {
            timers.add(Operation.sweep.token(), at: now + 10_000_000)
            markDirty(index)
        }
    }

    private func sent(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>, _ result: Int32) {
        if result > 0 {
            let count = Int(result)
            queue_release(&user.pointee.outbound, arena, user.pointee.outbound.head + UInt64(count))
            if user.pointee.flags.contains(.hasStream), let session = user.pointee.session?.takeUnretainedValue() {
                session.endpoint.consume(user.pointee.slot, count, now: instant)
                markDirty(session)
            }
            markDirty(index)
            return
        }
        guard user.pointee.flags.isDisjoint(with: [.closing, .flushing]) else { return }
        let error = SystemError(-result)
        if error.code == EAGAIN || error.code == EINTR || error.code == ECANCELED || error.isShortage {
            markDirty(index)
        } else if user.pointee.flags.contains(.hasStream), !user.pointee.flags.contains(.resetOwed),
                  let session = user.pointee.session?.takeUnretainedValue() {
            userReset(index, user, session)
        }
    }

    // MARK: Ends

    /// The peer's FIN: passed on behind the last byte.
    func finishOutbound(_ index: UInt32) {
        users[index].pointee.flags.insert(.finishOwed)
        markDirty(index)
    }

    /// The peer's RESET; the stream is gone. What the user's socket takes at once is delivered, then it is reset, as when
    /// the bytes and the RST had come over one wire.
    func abortOutbound(_ index: UInt32) {
        let user = users[index]
        forgetStream(user)
        if user.pointee.outboundCount == 0 || user.pointee.flags.contains(.connecting) {
            return close(index, abort: true)
        }
        user.pointee.flags.insert(.flushing)
        if user.pointee.hasOperations { loop.cancel(user.pointee.fd) }
        settle(index, user)
    }

    /// Moves a socket on that waits for its operations to end.
    func settle(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>) {
        guard user.pointee.fd >= 0, !user.pointee.hasOperations else { return }
        if user.pointee.flags.contains(.closing) {
            release(index, user)
        } else if user.pointee.flags.contains(.flushing) {
            if user.pointee.flags.contains(.flushed) || user.pointee.outboundCount == 0 {
                close(index, abort: true)
            } else {
                user.pointee.flags.insert(.flushed)
                submitSend(index, user, waiting: false)
                if !user.pointee.flags.contains(.sendSubmitted) { close(index, abort: true) }
            }
        }
    }

    /// The stream is over or reset already; the descriptor follows when nothing is in flight. `abort`: with RST.
    func close(_ index: UInt32, abort: Bool) {
        let user = users[index]
        guard !user.pointee.flags.contains(.closing) else { return }
        forgetStream(user)
        user.pointee.flags.insert(.closing)
        if abort { Socket.abortOnClose(user.pointee.fd) }
        if user.pointee.hasOperations { loop.cancel(user.pointee.fd) } else { release(index, user) }
    }

    /// The inbound bytes are nobody's any more.
    private func forgetStream(_ user: UnsafeMutablePointer<UserSocket>) {
        user.pointee.flags.remove(.hasStream)
        let count = user.pointee.inboundCount
        if count > 0, let session = user.pointee.session?.takeUnretainedValue() {
            session.waitingByteCount -= count
            heldByteCount -= count
            markDirty(session)
        }
        queue_clear(&user.pointee.inbound, arena)
    }

    private func release(_ index: UInt32, _ user: UnsafeMutablePointer<UserSocket>) {
        loop.close(user.pointee.fd)
        queue_clear(&user.pointee.outbound, arena)
        becomeCold(index, user)
        user.pointee.session = nil
        users.remove(index)
        armAccept()
        stopIfDrained()
    }

    func abortUsers(of session: SessionHost) {
        var owners: [UInt32] = []
        session.endpoint.forEachOwner { owners.append($0) }
        for index in owners { close(index, abort: true) }
    }
}
