import State
import Time
import Tunnel
import Wire

/// A server's endpoint whose peer sends whatever the input says, while its own users do what users do.
enum EndpointFuzz {
    private struct User {
        var slot: StreamSlot
        var held = 0
        var waiting = 0
        var hasFin = false
        var isFinished = false
    }

    static func run(_ input: consuming Input) {
        var input = input
        var now: UInt64 = 1_000_000_000
        var endpoint = Endpoint(
            role: .server, limits: .init(retained: 64 << 10, received: 64 << 10, streams: 8),
            now: Instant(nanoseconds: now))
        var users: [StreamOwner: User] = [:]
        var unread: [UInt8] = []
        var attempt: UInt64 = 1
        let header = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.headerMaximum, alignment: 8)
        let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
        defer {
            header.deallocate()
            control.deallocate()
        }
        guard attach(&endpoint, received: 0, replay: 0, early: 0, &attempt, now) else { return }
        while let operation = input.byte() {
            let instant = Instant(nanoseconds: now)
            let some = users.isEmpty ? nil : users.keys.sorted()[Int(operation >> 4) % users.count]
            switch operation % 8 {
            case 0, 1:
                unread += Array(input.take(1 + Int(operation >> 3)))
                guard endpoint.isAttached, read(&endpoint, &users, &unread, instant, operation >> 4) else { return }
            case 2:
                guard let some, users[some]!.held > 0 else { break }
                let count = min(users[some]!.held, 1 + Int(input.number() & 0xffff))
                users[some]!.held -= count
                endpoint.consume(users[some]!.slot, count, now: instant)
            case 3:
                guard let some, !users[some]!.isFinished else { break }
                let count = 1 + Int(input.number() & 0xfff)
                let room = operation & 16 == 0 ? 0 : endpoint.spliceRoom(users[some]!.slot)
                if room > 0 {
                    let batch = endpoint.splice(users[some]!.slot, min(count, room), header: header, control: control, now: instant).batch
                    endpoint.batchSent(batch, operation & 32 == 0 ? batch.byteCount : batch.byteCount / 2)
                } else {
                    users[some]!.waiting += count
                    endpoint.write(users[some]!.slot, count)
                }
            case 4:
                guard let some, !users[some]!.isFinished else { break }
                users[some]!.isFinished = true
                endpoint.finish(users[some]!.slot)
            case 5:
                guard let some else { break }
                if users[some]!.hasFin, users[some]!.held == 0, operation & 128 == 0 {
                    let slot = users[some]!.slot
                    users[some]!.hasFin = false
                    if endpoint.drain(slot) { users[some] = nil }
                } else if operation & 128 != 0 {
                    endpoint.reset(users[some]!.slot, .reset, now: instant)
                    users[some] = nil
                }
            case 6:
                now += input.number() % 3_000_000_000
                _ = endpoint.handleTimeout(now: Instant(nanoseconds: now))
                send(&endpoint, &users, header, control, Int(operation), now)
            default:
                endpoint.carrierLost()
                unread = []
                if operation & 8 != 0 { endpoint = handedOver(endpoint, &users, instant) }
                guard
                    attach(
                        &endpoint, received: endpoint.acknowledged &+ input.number(), replay: input.number(),
                        early: UInt32(input.number() & 0xffff), &attempt, now)
                else { return }
            }
            endpoint.checkInvariants()
        }
    }

    /// Another program restores what this one saves: whatever the peer has said, the state is one that is accepted, and nothing is lost.
    private static func handedOver(_ old: consuming Endpoint, _ users: inout [StreamOwner: User], _ now: Instant) -> Endpoint {
        var old = old
        var owners: [StreamOwner] = []
        var fresh = Endpoint(role: .server, limits: old.limits, hashSeed: 7, now: now)
        do throws(StateFault) {
            var saved = StateArchive()
            try old.archive(&saved, now: now)
            saved.seal()
            try old.forEachOwned { (_, owner, _, _) throws(StateFault) in owners.append(owner) }
            var restored = StateArchive(restoring: saved.bytes)
            try restored.checkSeal()
            try fresh.archive(&restored, now: now)
            guard restored.isAtEnd else { fatalError("a state has a rest") }
            var slots: [StreamSlot] = []
            try fresh.forEachOwned { (slot, _, toPeer, toUser) throws(StateFault) in
                guard let user = users[owners[slots.count]], user.waiting == toPeer, user.held == toUser else { fatalError("bytes are lost") }
                slots.append(slot)
            }
            for (owner, slot) in zip(owners, slots) {
                fresh.adopt(slot, owner: owner)
                users[owner]!.slot = slot
            }
        } catch {
            fatalError("a state is refused: \(error.reason)")
        }
        return fresh
    }

    private static func attach(
        _ endpoint: inout Endpoint, received: UInt64, replay: UInt64, early: UInt32,
        _ attempt: inout UInt64, _ now: UInt64
    ) -> Bool {
        attempt += 1
        let hello = Hello(
            identity: SessionIdentity(high: 1, low: 1), attempt: attempt, received: min(received, Varint.maximum),
            replay: replay, earlyByteCount: early, dataLimit: 1 << 20)
        guard let answer = try? endpoint.accept(hello, now: Instant(nanoseconds: now)) else { return false }
        _ = answer
        endpoint.greetingSent()
        return true
    }

    /// False: the session is over.
    private static func read(
        _ endpoint: inout Endpoint, _ users: inout [StreamOwner: User], _ unread: inout [UInt8],
        _ now: Instant, _ chance: UInt8
    ) -> Bool {
        var offset = 0
        let goesOn = unread.withUnsafeBytes { bytes in
            while true {
                if chance & 1 == 1, offset < bytes.count, let due = endpoint.payloadDue {
                    let count = min(due.byteCount, bytes.count - offset)
                    endpoint.passed(count, now: now)
                    offset += count
                    precondition(users[due.owner] != nil && !users[due.owner]!.hasFin, "payload for nobody")
                    users[due.owner]!.held += count
                }
                guard let event = try? endpoint.receive(bytes.bytes, at: &offset, now: now) else { return false }
                switch event {
                case .incomplete: return true
                case .opened(let slot, let target):
                    let owner = (users.keys.max() ?? 0) + 1
                    precondition(!users.values.contains { $0.slot == slot }, "two streams in one slot")
                    if target % 3 == 2 {
                        endpoint.reset(slot, .refused, now: now)
                    } else {
                        endpoint.adopt(slot, owner: owner)
                        users[owner] = User(slot: slot)
                    }
                case .payload(let owner, let range):
                    precondition(users[owner] != nil && !users[owner]!.hasFin, "payload for nobody")
                    users[owner]!.held += range.count
                case .finished(let owner):
                    precondition(users[owner] != nil, "FIN for nobody")
                    users[owner]!.hasFin = true
                case .reset(let owner, _):
                    precondition(users.removeValue(forKey: owner) != nil, "RESET for nobody")
                case .closed: return false
                // The owner of a server's endpoint answers so.
                case .spread: endpoint.spread()
                }
            }
        }
        endpoint.heard(now: now)
        unread.removeFirst(offset)
        precondition(unread.count <= Specification.controlFrameMaximum + 16, "more than a frame is held")
        return goesOn
    }

    private static func send(
        _ endpoint: inout Endpoint, _ users: inout [StreamOwner: User], _ header: UnsafeMutableRawBufferPointer,
        _ control: UnsafeMutableRawBufferPointer, _ chance: Int, _ now: UInt64
    ) {
        for _ in 0..<8 {
            guard let frame = endpoint.nextFrame(into: header, payloadMaximum: 1 + chance * 64, now: Instant(nanoseconds: now)) else { break }
            if frame.payloadByteCount > 0 {
                users[frame.owner]!.waiting -= frame.payloadByteCount
                precondition(users[frame.owner]!.waiting >= 0, "bytes that nobody wrote")
            }
            if frame.isOver { users[frame.owner] = nil }
        }
        guard endpoint.wantsBatch(now: Instant(nanoseconds: now)) else { return }
        let batch = endpoint.nextBatch(limit: 1 + chance * 16, control: control, now: Instant(nanoseconds: now))
        if !batch.isEmpty { endpoint.batchSent(batch, chance & 1 == 0 ? batch.byteCount : batch.byteCount / 2) }
    }
}
