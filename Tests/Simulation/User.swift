import Control
import CSlab
import Time
import Tunnel
import Wire

/// One user connection at one side of a stream: writes its part of the pattern, reads the other's.
struct User {
    enum State { case absent, open, over, wasReset, didReset, lost }
    var state = State.absent
    /// As the proxy's sockets live.
    var life = SocketLife(isConnecting: false)
    var slot: StreamSlot = 0
    var session = -1

    var isFinished: Bool { life.inward == .ended }
    var hasFin: Bool { life.outward != .open }

    // Writing.
    enum Start { case atOnce, afterFirstByte, afterFin }
    var start = Start.atOnce
    var total = 0
    var chunk = 1
    var writeGap: UInt64 = 0
    var written = 0
    var isWriting = false
    var waitsForRoom = false
    /// Written and not yet in a frame.
    var waiting = byte_queue()

    // Reading.
    var readChunk = Int.max
    var readGap: UInt64 = 0
    var arrived = 0
    var consumed = 0
    var isReadScheduled = false
    /// A clogged user neither reads nor writes.
    var isClogged = false

    var resetCode: ResetCode?
    /// The user resets when so many bytes have arrived.
    var resetsAtArrival = Int.max

    var held: Int { arrived - consumed }
}

extension World {
    func userIndex(_ stream: StreamOwner, _ side: Side) -> Int { Int(stream) * 2 + side.rawValue }
    func side(ofUser user: Int) -> Side { user & 1 == 0 ? .client : .server }
    func stream(ofUser user: Int) -> Int { user >> 1 }

    /// The calendar says: a user connects.
    func openStream(_ stream: Int) {
        let side = opener(of: stream)
        guard let session = side == .client ? client.session : newestServerSession(), !session.isOver,
              session.endpoint.canOpen else {
            calendar.add(.open, stream, at: time + milliseconds(5))
            return
        }
        unopened -= 1
        let slot = session.endpoint.open(owner: StreamOwner(stream), target: UInt64(stream), now: now(side))
        begin(userIndex(StreamOwner(stream), side), session, slot)
        touch(session)
    }

    func begin(_ user: Int, _ session: Session, _ slot: StreamSlot) {
        let isOpener = opener(of: stream(ofUser: user)) == session.side
        users[user].state = .open
        users[user].slot = slot
        users[user].session = session.number
        openUsers += 1
        let total = chance.oneIn(8) ? 0 : chance.skewed(plan.bytesMaximum)
        users[user].total = total
        users[user].chunk = max(1 + chance.skewed(plan.chunkMaximum), total / 64)
        users[user].writeGap = microseconds(chance.skewed(isHealed ? 100 : 10_000))
        users[user].start = isOpener || isHealed ? .atOnce : chance.pick([.atOnce, .afterFirstByte, .afterFin])
        if chance.oneIn(plan.slowReadersOneIn), !isHealed {
            users[user].readChunk = max(1 + chance.skewed(8 << 10), plan.bytesMaximum / 64)
            users[user].readGap = microseconds(1 + chance.skewed(20_000))
            users[user].isClogged = chance.oneIn(4)
        }
        if chance.oneIn(plan.resetsOneIn) {
            // At some time, or when some bytes are here that nobody has read.
            switch chance.below(3) {
            case 0: calendar.add(.reset, user, at: time + microseconds(chance.skewed(500_000)))
            case 1: calendar.add(.reset, user, at: time + microseconds(chance.below(500_000)))
            default: users[user].resetsAtArrival = 1 + chance.skewed(plan.bytesMaximum)
            }
        }
        if users[user].start == .atOnce { startWriting(user) }
    }

    private func startWriting(_ user: Int) {
        guard !users[user].isWriting else { return }
        users[user].isWriting = true
        calendar.add(.write, user, at: time + (chance.oneIn(2) ? 0 : users[user].writeGap))
    }

    func wakeWriter(_ user: Int) {
        guard users[user].waitsForRoom else { return }
        users[user].waitsForRoom = false
        calendar.add(.write, user, at: time)
    }

    func userWrites(_ user: Int) {
        guard users[user].state == .open, !users[user].isFinished else { return }
        if users[user].isClogged {
            users[user].waitsForRoom = true
            return
        }
        let session = sessions[users[user].session], slot = users[user].slot
        if users[user].written == users[user].total {
            users[user].life.receivedFin()
            session.endpoint.finish(slot)
            touch(session)
            return
        }
        let waiting = session.endpoint.waiting(slot)
        require(waiting == queue_count(&users[user].waiting), "the endpoint counts other bytes than the owner holds")
        let left = users[user].total - users[user].written
        let count = min(1 + chance.skewed(users[user].chunk - 1), left, plan.queueMaximum - waiting)
        guard count > 0 else {
            users[user].waitsForRoom = true
            return
        }
        let spliced = waiting == 0 ? splice(user, session, count) : 0
        users[user].written += spliced
        if spliced < count {
            appendPattern(user, count - spliced)
            session.endpoint.write(slot, count - spliced)
            users[user].written += count - spliced
        }
        if users[user].written == users[user].total, chance.oneIn(2) {
            users[user].life.receivedFin()
            session.endpoint.finish(slot)
        } else {
            calendar.add(.write, user, at: time + users[user].writeGap)
        }
        touch(session)
    }

    private func appendPattern(_ user: Int, _ count: Int) {
        let arena = arenas[user & 1]
        let pattern = Pattern(stream: stream(ofUser: user), from: side(ofUser: user))
        let offset = UInt64(users[user].written)
        if count >= 4096, chance.oneIn(2), let slab = arena_slab(arena) {
            // As a large receive: the bytes stay where they arrived.
            let run = min(count, Int(SLAB_BYTES))
            pattern.fill(UnsafeMutableRawBufferPointer(start: slab, count: run), from: offset)
            require(queue_append_block(&users[user].waiting, arena, slab, run) == 0, "no memory")
            arena_release(arena, slab)
            if run == count { return }
            let rest = UnsafeMutableRawBufferPointer(rebasing: scratch[0..<(count - run)])
            pattern.fill(rest, from: offset + UInt64(run))
            require(queue_append_copy(&users[user].waiting, arena, rest.baseAddress, rest.count) == 0, "no memory")
        } else {
            let bytes = UnsafeMutableRawBufferPointer(rebasing: scratch[0..<count])
            pattern.fill(bytes, from: offset)
            require(queue_append_copy(&users[user].waiting, arena, bytes.baseAddress, count) == 0, "no memory")
        }
    }

    func userReads(_ user: Int) {
        users[user].isReadScheduled = false
        guard users[user].state == .open, !users[user].isClogged else { return }
        let session = sessions[users[user].session]
        let count = min(users[user].held, users[user].readChunk)
        if count > 0 {
            users[user].consumed += count
            session.held -= count
            let ahead = plan.splices && chance.oneIn(4) ? plan.queueMaximum : Int.max
            let room = session.endpoint.measuresRoom(users[user].slot, count) ? chance.below(World.roomMaximum) : 0
            session.endpoint.consume(users[user].slot, count, ahead: ahead, room: room, now: now(session.side))
        }
        if users[user].held > 0 {
            scheduleRead(user)
        } else if users[user].life.tookAll() == .finish {
            if session.endpoint.drain(users[user].slot) { userIsOver(user) }
        }
        touch(session)
    }

    private func scheduleRead(_ user: Int) {
        guard !users[user].isReadScheduled else { return }
        users[user].isReadScheduled = true
        calendar.add(.read, user, at: time + users[user].readGap)
    }

    func userResets(_ user: Int) {
        guard users[user].state == .open else { return }
        let session = sessions[users[user].session]
        let code = ResetCode(rawValue: UInt64(chance.below(6)))
        users[user].resetCode = code
        session.endpoint.reset(users[user].slot, code, now: now(session.side))
        endUser(user, .didReset)
        touch(session)
    }

    func unclog(_ user: Int) {
        guard users[user].isClogged else { return }
        users[user].isClogged = false
        wakeWriter(user)
        if users[user].state == .open, users[user].held > 0 || users[user].hasFin { scheduleRead(user) }
    }

    // MARK: What the endpoint says

    func userIsOpened(_ session: Session, _ slot: StreamSlot, _ target: UInt64) {
        guard plan.liar == nil else { return liarOpened(session, slot, target) }
        guard target < UInt64(plan.streamCount) else { return require(false, "a stream was opened that nobody opened") }
        let user = userIndex(StreamOwner(target), session.side)
        require(opener(of: Int(target)) != session.side && users[user ^ 1].state != .absent,
                "a stream was opened that nobody opened")
        require(users[user].state == .absent && users[user].resetCode == nil, "a stream was opened twice")
        guard failure == nil else { return }
        if chance.oneIn(plan.resetsOneIn * 4) {
            users[user].resetCode = .refused
            users[user].state = .didReset
            session.endpoint.reset(slot, .refused, now: now(session.side))
        } else {
            session.endpoint.adopt(slot, owner: StreamOwner(target))
            begin(user, session, slot)
        }
    }

    func userReceived(_ session: Session, _ owner: StreamOwner, _ bytes: UnsafeRawBufferPointer) {
        let user = userIndex(owner, session.side)
        guard users[user].state == .open, users[user].session == session.number else {
            return require(false, "bytes for stream \(owner) at \(session.side), which is \(users[user].state)")
        }
        if plan.liar == nil {
            require(!users[user].hasFin, "bytes behind FIN")
            require(users[user].arrived + bytes.count <= users[user ^ 1].written, "more bytes than were written")
            let pattern = Pattern(stream: Int(owner), from: session.side.other)
            if let index = pattern.firstWrong(bytes, at: UInt64(users[user].arrived)) {
                require(false, misplaced(user, bytes, index))
            }
        }
        delivered += bytes.count
        users[user].arrived += bytes.count
        session.held += bytes.count
        require(session.held <= arrivalMaximum(session), "more bytes than the budget of arrivals")
        if users[user].arrived >= users[user].resetsAtArrival { return userResets(user) }
        if users[user].start == .afterFirstByte { startWriting(user) }
        if users[user].readGap == 0, !users[user].isClogged, !users[user].isReadScheduled {
            userReads(user)
        } else {
            scheduleRead(user)
        }
    }

    func userReceivedFin(_ session: Session, _ owner: StreamOwner) {
        let user = userIndex(owner, session.side)
        guard users[user].state == .open, users[user].session == session.number, !users[user].hasFin else {
            return require(false, "FIN for a stream or half that has ended")
        }
        require(users[user ^ 1].isFinished && users[user ^ 1].written == users[user].arrived || plan.liar != nil,
                "FIN before the last byte, or of a half that was never finished")
        users[user].life.receivedPeerFin()
        startWriting(user)
        if users[user].held == 0 || !users[user].isReadScheduled { scheduleRead(user) }
    }

    func userWasReset(_ session: Session, _ owner: StreamOwner, _ code: ResetCode) {
        let user = userIndex(owner, session.side)
        guard users[user].state == .open, users[user].session == session.number else {
            return require(false, "RESET for stream \(owner) at \(session.side), which is \(users[user].state)")
        }
        let wasRefused = code == .tooMany && users[user ^ 1].state == .absent
            && plan.limits[session.side.other.rawValue].streams < 100
        require(users[user ^ 1].resetCode == code || wasRefused || plan.liar != nil, "RESET \(code.rawValue) that nobody sent; the other user is \(users[user ^ 1].state)")
        let end = users[user].life.streamEnded(hasBytes: users[user].held > 0, isComplete: false)
        require(end == (users[user].held > 0 ? .flush : .closeNow(.reset)) && users[user].life.farewell == .reset,
                "a reset stream that does not look like one")
        endUser(user, .wasReset)
    }

    func userIsOver(_ user: Int) {
        require(users[user].state == .open && users[user].isFinished && users[user].hasFin && users[user].held == 0
                    && queue_count(&users[user].waiting) == 0 && users[user].written == users[user].total,
                "a stream is over that has not ended")
        endUser(user, .over)
    }

    /// The session is gone: its users are reset.
    func loseUsers(_ session: Session) {
        for user in users.indices where users[user].state == .open && users[user].session == session.number {
            let isComplete = session.endpoint.retainedByteCount == 0 && queue_count(&users[user].waiting) == 0
            _ = users[user].life.streamEnded(hasBytes: users[user].held > 0, isComplete: isComplete)
            // A side that lies may say that its user has ended, and that it has all bytes of ours.
            require(users[user].life.farewell == .reset || plan.liar != nil || users[user ^ 1].isFinished
                        && users[user].arrived == users[user ^ 1].written
                        && users[user ^ 1].arrived == users[user].written && users[user].isFinished,
                    "a lost connection looks like a clean end")
            endUser(user, .lost)
        }
    }

    private func endUser(_ user: Int, _ state: User.State) {
        let session = sessions[users[user].session]
        session.held -= users[user].held
        users[user].state = state
        queue_clear(&users[user].waiting, arenas[user & 1])
        openUsers -= 1
    }
}
