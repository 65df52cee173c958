import CSlab
import Time
import Tunnel

/// Bytes that go past memory, as the proxy's do: spliced ones lie in a pipe until they have left, and in another until they
/// are acknowledged; what arrives is passed on without the endpoint's reading it.
extension World {
    /// Up to `most` bytes of the user go at once, in a frame of their own. How many; 0: they must wait like others.
    func splice(_ user: Int, _ session: Session, _ most: Int) -> Int {
        let slot = users[user].slot
        guard plan.splices, chance.oneIn(2), let end = session.end, end.isOpen, end.send == nil else { return 0 }
        let count = min(most, session.endpoint.spliceRoom(slot))
        guard count > 0 else { return 0 }
        var bytes = [UInt8](repeating: 0, count: count)
        let pattern = Pattern(stream: stream(ofUser: user), from: side(ofUser: user))
        bytes.withUnsafeMutableBytes { pattern.fill($0, from: UInt64(users[user].written)) }
        let (frame, batch) = session.endpoint.splice(slot, count, header: header, control: end.control, now: now(session.side))
        sequenced.insert(header[0])
        spliced += 1
        let arena = arenas[session.side.rawValue]
        require(queue_append_copy(&session.store, arena, header.baseAddress, frame.headerByteCount) == 0
                && queue_append_outside(&session.store, UInt32(count)) == 0, "no memory")
        session.kept += bytes
        var send = Send(batch, of: session)
        send.transit = bytes
        submit(end, send)
        return count
    }

    /// The carrier is lost or doubted, or another one is asked for: everything kept is read into memory.
    func bringIn(_ session: Session) {
        guard session.store.outside > 0 else { return }
        var kept = session.kept[...]
        let failed = withUnsafeMutablePointer(to: &kept) { kept in
            queue_bring_in(&session.store, arenas[session.side.rawValue], { context, memory, count in
                let kept = context!.assumingMemoryBound(to: ArraySlice<UInt8>.self)
                kept.pointee.prefix(count).withUnsafeBytes { memory!.copyMemory(from: $0.baseAddress!, byteCount: count) }
                kept.pointee.removeFirst(count)
            }, kept)
        }
        require(failed == 0 && kept.isEmpty, "bytes that were kept are lost")
        session.kept = []
    }

    /// The store has let go of bytes that lay outside.
    func releaseKept(_ session: Session) {
        session.kept.removeFirst(session.kept.count - session.store.outside)
    }

    /// Payload that comes next is passed on, some of it. How much.
    func pass(_ session: Session, _ bytes: UnsafeRawBufferPointer) -> Int {
        guard plan.splices, !bytes.isEmpty, chance.oneIn(2), let due = session.endpoint.payloadDue else { return 0 }
        let most = min(due.byteCount, bytes.count)
        let count = chance.oneIn(2) ? most : 1 + chance.below(most)
        session.endpoint.passed(count, now: now(session.side))
        passed += 1
        userReceived(session, due.owner, UnsafeRawBufferPointer(rebasing: bytes[..<count]))
        return count
    }
}
