import CSlab
import Tunnel

/// TCP as far as tele can see it: bytes in order, any prefix taken, any part arriving, and an end at any byte.
extension World {
    // MARK: Ends

    func makeCarrier() -> End {
        let number = ends.count
        ends.append(End(number, .client, .connecting))
        ends.append(End(number + 1, .server, .connecting))
        for cut in plan.cuts where number / 2 + 1 == cut.carrier {
            let from = ends[number + cut.from.rawValue]
            from.way.cutAt = cut.afterBytes
            from.way.cutStyle = cut.style
        }
        return ends[number]
    }

    /// Closes our socket. Orderly: the peer gets what was sent and then the end; else what is on its way is lost.
    func close(_ end: End, orderly: Bool) {
        guard end.isOpen else { return }
        end.state = .closed
        end.inbound.removeAll()
        if end.send != nil, end.send!.taken == nil {
            end.send!.taken = 0
            calendar.add(.complete, end.number, at: time + microseconds(chance.skewed(1000)))
        }
        guard !end.way.isDead else { return }
        if orderly {
            end.way.endsAfterBytes = true
            deliverSoon(end)
        } else if end.way.isHeld || chance.oneIn(4) {
            // Held and late bytes of a carrier that is none any more.
            end.way.endsAfterBytes = true
            deliverSoon(end)
        } else {
            end.way.bytes.removeAll()
            end.way.isDead = true
            calendar.add(.down, end.peer, at: time + latency())
        }
    }

    /// The network ends a carrier.
    func kill(_ number: Int, style: Int) {
        let pair = [ends[number & ~1], ends[number | 1]]
        func die(_ end: End) {
            end.way.bytes.removeAll()
            end.way.isDead = true
            takeSoon(end)
        }
        func tell(_ end: End, _ delay: UInt64) { calendar.add(.down, end.number, at: time + delay) }
        kills += 1
        for end in pair { end.wasKilled = true }
        switch style % 5 {
        case 0:
            pair.forEach { die($0); tell($0, 0) }
        case 1:
            pair.forEach { die($0); tell($0, microseconds(chance.skewed(300_000))) }
        case 2:  // In order: what was sent still arrives.
            for end in pair where !end.way.isDead {
                end.way.endsAfterBytes = true
                deliverSoon(end)
            }
        case 3:  // Nobody is ever told.
            pair.forEach { die($0) }
        default:  // One direction first, the other goes on for a while.
            die(ends[number])
            calendar.add(.breakUp, number, at: time + microseconds(chance.skewed(200_000)))
        }
    }

    /// The second half of a half cut.
    func breakUp(_ number: Int) {
        for end in [ends[number & ~1], ends[number | 1]] {
            end.way.bytes.removeAll()
            end.way.isDead = true
            takeSoon(end)
            calendar.add(.down, end.number, at: time + microseconds(chance.skewed(50_000)))
        }
    }

    func release(_ end: End) {
        guard end.way.isHeld else { return }
        end.way.isHeld = false
        deliverSoon(end)
        takeSoon(end)
    }

    func latency() -> UInt64 { plan.latency + UInt64(chance.below(Int(plan.jitter) + 1)) }

    // MARK: Sends

    func submit(_ end: End, _ send: Send) {
        require(end.send == nil && end.isOpen, "two sends at once, or one on a closed carrier")
        end.send = send
        if send.usesStore, let session = send.session { session.sending.append(end) }
        if plan.takesLate, chance.oneIn(2) {
            calendar.add(.take, end.number, at: time + microseconds(chance.skewed(2000)))
        } else {
            take(end)
        }
    }

    private func takeSoon(_ end: End) {
        if let send = end.send, send.taken == nil { calendar.add(.take, end.number, at: time) }
    }

    /// The kernel takes a prefix of the send under way, now.
    func take(_ end: End) {
        guard let send = end.send, send.taken == nil else { return }
        let room = end.way.isDead ? Int.max : plan.kernelRoom - end.way.bytes.count
        var count = min(send.byteCount, room, plan.takeMaximum)
        guard count > 0 else { return }  // Later, when bytes have arrived.
        switch chance.below(8) {
        case 0: count = 1
        case 1: count = 1 + chance.below(count)
        default: break
        }
        end.send!.taken = count
        if !end.way.isDead {
            copy(send, count, to: end)
            deliverSoon(end)
        }
        let delay = chance.oneIn(4) ? UInt64(chance.below(Int(plan.completionDelay) + 1)) : 0
        calendar.add(.complete, end.number, at: time + delay)
    }

    private func copy(_ send: Send, _ count: Int, to end: End) {
        var left = count
        func append(_ bytes: UnsafeRawBufferPointer) {
            end.way.bytes.append(bytes)
            left -= bytes.count
        }
        func appendStored(_ position: UInt64, _ wanted: Int) {
            guard let session = send.session, wanted > 0 else { return }
            require(session.store.head <= position && position + UInt64(wanted) <= session.store.tail,
                    "a send of bytes that are not in the store")
            guard failure == nil else { return }
            var position = position, wanted = wanted
            while wanted > 0 {
                var gathered = 0
                let pieces = queue_gather(&session.store, position, wanted, &vectors, UInt32(vectors.count), &gathered)
                for index in 0..<Int(pieces) {
                    append(UnsafeRawBufferPointer(start: vectors[index].iov_base, count: vectors[index].iov_len))
                }
                position += UInt64(gathered)
                wanted -= gathered
            }
        }
        let before = end.way.bytes.count
        let own = min(left, send.preamble.count)
        append(UnsafeRawBufferPointer(rebasing: end.preamble[send.preamble.lowerBound..<send.preamble.lowerBound + own]))
        appendStored(send.start, min(left, send.rest))
        let control = min(left, send.control.count)
        let first = send.control.lowerBound
        append(UnsafeRawBufferPointer(rebasing: end.control[first..<first + control]))
        appendStored(send.start + UInt64(send.rest), min(left, send.more - send.transit.count))
        send.transit.withUnsafeBytes { append(UnsafeRawBufferPointer(rebasing: $0[..<min(left, $0.count)])) }
        if plan.liar == end.side, send.batch != nil { lie(end, behind: before) }
    }

    /// The kernel gives a send back.
    func complete(_ end: End) {
        guard let send = end.send, let count = send.taken else { return }
        end.send = nil
        if send.usesStore, let session = send.session {
            require(session.store.head <= send.start, "bytes were released that the kernel may still read")
            session.sending.removeAll { $0 === end }
            if session.isOver { clearStore(session) } else { touch(session) }
        }
        guard end.isOpen else { return }
        guard let batch = send.batch, let session = send.session else { return preambleSent(end, send, count) }
        if !send.transit.isEmpty, count < send.byteCount { bringIn(session) }  // The rest goes by memory.
        session.endpoint.batchSent(batch, count)
        touch(session)
        if session.endpoint.isClosed { endSession(session, orderly: true) }
    }

    /// Own bytes and early ones behind them have no cursor; what is left of them goes next.
    private func preambleSent(_ end: End, _ send: Send, _ count: Int) {
        let own = min(count, send.preamble.count)
        let early = count - own
        let rest = Send(preamble: (send.preamble.lowerBound + own)..<send.preamble.upperBound,
                        early: send.more - early, from: send.start + UInt64(early), of: send.session)
        if rest.byteCount > 0 {
            submit(end, rest)
        } else if end.state == .refusing {
            close(end, orderly: true)
        } else if let session = end.session {
            if session.end === end { session.endpoint.greetingSent() }
            touch(session)
        }
    }

    // MARK: Arrivals

    func deliverSoon(_ end: End) {
        guard !end.way.isDelivering, !end.way.isHeld, !end.way.isDead else { return }
        end.way.isDelivering = true
        calendar.add(.deliver, end.number, at: time + latency())
    }

    func deliver(_ from: End) {
        from.way.isDelivering = false
        guard !from.way.isHeld, !from.way.isDead else { return }
        let to = ends[from.peer]
        var count = min(from.way.bytes.count, chance.oneIn(4) ? 1 + chance.skewed(plan.arrivalMaximum - 1) : plan.arrivalMaximum)
        if let cutAt = from.way.cutAt { count = min(count, cutAt - from.way.arrived) }
        if count > 0 {
            if to.isOpen { to.inbound.append(UnsafeRawBufferPointer(rebasing: from.way.bytes.bytes[0..<count])) }
            from.way.bytes.removeFirst(count)
            from.way.arrived += count
            takeSoon(from)
        }
        if let cutAt = from.way.cutAt, from.way.arrived >= cutAt {
            from.way.cutAt = nil
            kill(from.number, style: from.way.cutStyle)
        } else if from.way.bytes.count > 0 {
            from.way.isDelivering = true
            calendar.add(.deliver, from.number, at: time + microseconds(chance.below(20)))
        } else if from.way.endsAfterBytes, from.send?.taken != nil || from.send == nil {
            from.way.isDead = true
            calendar.add(.down, to.number, at: time)
        }
        if count > 0, to.isOpen { bytesArrived(to) }
    }

    private func bytesArrived(_ end: End) {
        if end.state == .established, let session = end.session, session.end === end { return receive(end, session) }
        end.side == .client ? clientReceived(end) : serverReceived(end)
    }
}
