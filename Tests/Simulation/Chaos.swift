import Time
import Tunnel
import Wire

/// What goes wrong, until the heal.
extension World {
    private func someTime(_ maximum: Int) -> UInt64 { microseconds(1 + chance.skewed(maximum * 1000)) }

    func fault() {
        guard !isHealed else { return }
        if !ends.isEmpty || plan.faults.contains(.refuseDials) { strike(chance.pick(plan.faults)) }
        calendar.add(.fault, 0, at: time + UInt64(chance.below(2 * Int(plan.faultGap) + 1)))
    }

    /// Mostly one of the newest carriers, sometimes any.
    private func someEnd() -> End? {
        guard !ends.isEmpty else { return nil }
        let reach = chance.oneIn(8) ? ends.count : min(ends.count, 4)
        return ends[ends.count - 1 - chance.below(reach)]
    }

    private func strike(_ fault: Plan.Fault) {
        switch fault {
        case .cut:
            if let end = someEnd() { kill(end.number, style: chance.below(4)) }
        case .cutAtByte:
            if let end = someEnd(), !end.way.isDead {
                end.way.cutAt = end.way.arrived + chance.skewed(chance.oneIn(2) ? 300 : 100_000)
                end.way.cutStyle = chance.below(5)
            }
        case .halfCut:
            if let end = someEnd() { kill(end.number, style: 4) }
        case .blackhole:
            if let end = someEnd() { hold(end, for: someTime(3000), bothWays: chance.oneIn(2)) }
        case .holdForEver:
            if let end = someEnd() { hold(end, for: nil, bothWays: chance.oneIn(2)) }
        case .clogCarriers: swizzleCarriers()
        case .clogUsers: swizzleUsers()
        case .refuseDials:
            client.refusedUntil = time + someTime(1000)
        case .freeze:
            let side: Side = chance.oneIn(2) ? .client : .server
            frozenUntil[side.rawValue] = min(time + someTime(5000), max(time, healTime))
        case .clockJump:
            let side: Side = chance.oneIn(2) ? .client : .server
            clockOffset[side.rawValue] += someTime(3_600_000)
            for session in sessions where session.side == side && !session.isOver { touch(session) }
            if side == .client {
                if chance.oneIn(2) { client.dialer.handlePathChanged(now: now(.client)) }
                runDialer()
            }
        case .restartWithState:
            restart(chance.oneIn(2) ? .client : .server, keepsState: true)
        case .restartWithout:
            if chance.oneIn(4) { restart(chance.oneIn(2) ? .client : .server, keepsState: false) }
        case .probe:
            doubtCarrier()
        case .oldHello: sendOldHello()
        }
    }

    private var healTime: UInt64 { startTime + plan.healsAt }

    private func hold(_ end: End, for duration: UInt64?, bothWays: Bool) {
        for end in bothWays ? [end, ends[end.peer]] : [end] {
            end.way.isHeld = true
            if let duration { calendar.add(.relieve, end.number, at: time + duration) }
        }
    }

    /// Clogs a random subset of the carriers one by one and unclogs it in another order.
    private func swizzleCarriers() {
        let span = someTime(500)
        for end in ends.suffix(8) where chance.oneIn(2) {
            end.way.isHeld = true
            calendar.add(.relieve, end.number, at: time + 1 + UInt64(chance.below(Int(span))))
        }
    }

    private func swizzleUsers() {
        let span = someTime(500)
        for user in users.indices where users[user].state == .open && chance.oneIn(2) {
            users[user].isClogged = true
            calendar.add(.relieve, -1 - user, at: time + 1 + UInt64(chance.below(Int(span))))
        }
    }

    /// An end, or (negative) a user.
    func relieve(_ subject: Int) {
        if subject >= 0 { release(ends[subject]) } else { unclog(-1 - subject) }
    }

    /// Somebody who overheard a HELLO sends it again, or it arrives very late.
    private func sendOldHello() {
        guard !oldHellos.isEmpty else { return }
        let hello = chance.pick(oldHellos)
        let end = makeCarrier()
        end.state = .closed
        ends[end.peer].state = .handshaking
        withUnsafeTemporaryAllocation(byteCount: Hello.byteCount, alignment: 8) { buffer in
            var writer = ByteWriter(buffer)
            hello.encode(into: &writer)
            end.way.bytes.append(UnsafeRawBufferPointer(rebasing: buffer[0..<writer.count]))
        }
        deliverSoon(end)
    }

    /// From now on nothing goes wrong any more: what can progress must end.
    func heal() {
        isHealed = true
        healedAt = time
        client.refusedUntil = 0
        plan.kernelRoom = 256 << 10
        plan.takeMaximum = .max
        plan.queueMaximum = 256 << 10
        plan.arrivalMaximum = max(plan.arrivalMaximum, 4 << 10)
        plan.completionDelay = min(plan.completionDelay, microseconds(100))
        for end in ends {
            release(end)
            end.way.cutAt = nil
        }
        for user in users.indices {
            users[user].readChunk = .max
            users[user].readGap = 0
            users[user].writeGap = min(users[user].writeGap, microseconds(100))
            unclog(user)
        }
        // Sessions that were lost may go; the one that lives may come back.
        server.registry.limits.hold = Interval(nanoseconds: milliseconds(60_000))
    }

    func expire() {
        expireSessions()
        calendar.add(.expire, 0, at: time + milliseconds(isHealed ? 1000 : 100))
    }
}
