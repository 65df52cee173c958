import Control
import CSlab
import Glibc
import Loop
import State
import Time
import Tunnel
import Wire

/// Saves and restores a process: listeners, sessions with their bytes, local sockets, counters. Carriers, timers and operations in flight
/// are not part of the state: there are none when the process has settled (`Handover`).
extension RelayProcess {
    /// Returns the descriptors that must stay open. `askers`: admin connections that wait for the result.
    package func saveState(_ archive: inout StateArchive, askers: [Int32] = []) throws(StateFault) -> [Int32] {
        var listening = listeners.inherited
        var descriptors = listening.map(\.fd) + askers
        locals.table.forEach { _, user in if user.pointee.fd >= 0 { descriptors.append(user.pointee.fd) } }
        var facts = Inheritance.Facts(
            version: configuration.version, isClient: configuration.role == .client, startedAt: startedAt, settledSince: handover.settledSince,
            takeovers: handover.takeovers, askers: askers)
        try Inheritance.head(&archive, &descriptors, &facts, &listening)
        try archiveTelemetry(&archive)
        try archiveNames(&archive)
        try server?.archive(&archive)
        try savePlaces(&archive)
        let sessions = self.sessions.all
        for index in 0..<(try archive.count(sessions.count, most: .max)) { try archiveSession(sessions[index], &archive) }
        var flushing: [UInt32] = []
        locals.table.forEach { index, user in if user.pointee.session == nil { flushing.append(index) } }
        for index in 0..<(try archive.count(flushing.count, most: .max)) { try saveLocal(flushing[index], &archive) }
        try archive.mark(0x656e_6400)
        return descriptors
    }

    /// Into a process that has its listeners, and no session in use.
    func restoreState(_ inheritance: Inheritance) throws(StateFault) {
        guard inheritance.facts.isClient == (configuration.role == .client) else { throw StateFault("it is that of the other side of a tunnel") }
        startedAt = inheritance.facts.startedAt
        try archiveTelemetry(&inheritance.archive)
        try archiveNames(&inheritance.archive)
        try server?.archive(&inheritance.archive)
        try restorePlaces(inheritance)
        for _ in 0..<(try inheritance.archive.count(0, most: .max)) { try restoreSession(inheritance) }
        for _ in 0..<(try inheritance.archive.count(0, most: .max)) { try restoreFlushing(inheritance) }
        try inheritance.archive.mark(0x656e_6400)
        guard inheritance.archive.isAtEnd else { throw StateFault("it does not end where it should") }
    }

    // MARK: Records

    /// What the ledger says of the process.
    var recordBodies: [(Ledger.Kind, (inout StateArchive) throws(StateFault) -> Void)] {
        [
            (
                .process,
                { (archive) throws(StateFault) in
                    var (listening, none) = (self.listeners.inherited, [Int32]())
                    var facts = Inheritance.Facts(
                        version: self.configuration.version, isClient: self.configuration.role == .client, startedAt: self.startedAt, settledSince: self.now,
                        takeovers: self.handover.takeovers, askers: [])
                    try Inheritance.head(&archive, &none, &facts, &listening)
                }
            ),
            (.telemetry, { (archive) throws(StateFault) in try self.archiveTelemetry(&archive) }),
            (.names, { (archive) throws(StateFault) in try self.archiveNames(&archive) }),
            (.server, { (archive) throws(StateFault) in try self.server?.archive(&archive) }),
            (
                .places,
                { (archive) throws(StateFault) in
                    let listening = (0..<self.listeners.placeCount).map { MappingPlace.listener($0) }
                    try self.savePlaces(listening + (0..<self.origins.placeCount).map { MappingPlace.origin($0) }, &archive)
                }
            ),
        ]
    }

    func saveSocket(_ user: UnsafeMutablePointer<LocalSocket>, _ archive: inout StateArchive) throws(StateFault) {
        var (fd, place) = (user.pointee.fd, user.pointee.mapping.rawValue)
        try archive.number(&fd)
        try archive.number(&place)
        try user.pointee.life.archive(&archive)
    }

    // MARK: Telemetry and names

    private func archiveTelemetry(_ archive: inout StateArchive) throws(StateFault) {
        try events.archive(&archive)
        try sessions.archiveClients(&archive)
        try locals.table.traffic.archive(&archive, name: { mapping(at: $0)?.name ?? "" }, place: { place(of: $0, isOrigin: $1, address: nil) })
        guard archive.version >= 5 else { return }
        try archive.counter(&sendSplice.byteCount)
        try archive.counter(&receiveSplice.byteCount)
    }

    /// Addresses of names: the name server may not answer during the upgrade.
    private func archiveNames(_ archive: inout StateArchive) throws(StateFault) {
        var known = archive.isSaving ? origins.knownAddresses + (client?.knownAddresses ?? []) : []
        try archive.list(&known, most: Mapping.countMaximum + 2 * Configuration.serversMaximum, blank: ("", [])) { (entry, archive) throws(StateFault) in
            try archive.text(&entry.0, most: 1024)
            try archive.list(&entry.1, most: 256, blank: Address(path: "")) { (address, archive) throws(StateFault) in
                try archive.address(&address)
            }
        }
        guard !archive.isSaving else { return }
        origins.know(known)
        client?.know(known)
    }

    /// The mappings of local sockets, by their places, which may be others in the new program.
    private func savePlaces(_ archive: inout StateArchive) throws(StateFault) {
        var used: Set<MappingPlace> = []
        locals.table.forEach { _, user in used.insert(user.pointee.mapping) }
        try savePlaces(Array(used), &archive)
    }

    private func savePlaces(_ used: [MappingPlace], _ archive: inout StateArchive) throws(StateFault) {
        var list = used.sorted { $0.rawValue < $1.rawValue }.map { place in
            let mapping = mapping(at: place)
            return Place(number: place.rawValue, name: mapping?.name ?? "", address: mapping.map { "\($0.address)" } ?? "")
        }
        try archive.list(&list, most: .max, blank: Place()) { (place, archive) throws(StateFault) in try place.archive(&archive) }
    }

    private func restorePlaces(_ inheritance: Inheritance) throws(StateFault) {
        var list: [Place] = []
        try inheritance.archive.list(&list, most: 1 << 16, blank: Place()) { (place, archive) throws(StateFault) in try place.archive(&archive) }
        for place in list {
            let isOrigin = MappingPlace(rawValue: place.number).isOrigin
            guard let now = self.place(of: place.name, isOrigin: isOrigin, address: try? HostPort(parsing: place.address)) else {
                throw StateFault("there are too many mappings")
            }
            inheritance.places[place.number] = now
        }
    }

    private struct Place {
        var number: UInt16 = 0
        var name = ""
        var address = ""

        mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
            try archive.number(&number)
            try archive.text(&name, most: 256)
            try archive.text(&address, most: 1024)
        }
    }

    // MARK: Sessions

    private func archiveSession(_ session: Session, _ archive: inout StateArchive) throws(StateFault) {
        try archiveOwner(session, &archive)
        try session.endpoint.archive(&archive, now: instant)
        var head = session.store.head
        try archive.number(&head)
        archive.queue(session.store, arena)
        try session.endpoint.forEachOwned { (_, owner, _, _) throws(StateFault) in try saveLocal(owner, &archive) }
    }

    func archiveOwner(_ session: Session, _ archive: inout StateArchive) throws(StateFault) {
        var streams = session.endpoint.limits.streams
        try archive.number(&streams, in: 1...(1 << 24))
        try archiveIdentity(session, &archive)
        try host.archive(session, &archive)
    }

    private func restoreSession(_ inheritance: Inheritance) throws(StateFault) {
        var streams = 0
        try inheritance.archive.number(&streams, in: 1...(1 << 24))
        let session = sessions.add(
            configuration.role == .client ? .client : .server,
            Endpoint.Limits(
                retained: configuration.bufferByteCount, received: min(configuration.bufferByteCount, configuration.memoryByteCount / 4),
                streams: max(configuration.maximumStreams, streams)))
        try archiveIdentity(session, &inheritance.archive)
        ledger?.attend(to: session)
        try host.archive(session, &inheritance.archive)
        try session.endpoint.archive(&inheritance.archive, now: instant)
        var head: UInt64 = 0
        try inheritance.archive.number(&head, in: 0...session.endpoint.acknowledged)
        queue_init(&session.store, head)
        let count = try inheritance.archive.takeQueue(&session.store, arena)
        budget.hold(count, &session.account)
        guard session.store.tail == session.endpoint.sent else { throw StateFault("a session's bytes are not those that it counts") }
        let (locals, now) = (self.locals!, self.now)
        var owned: [(slot: StreamSlot, toPeer: Int, toUser: Int)] = []
        try session.endpoint.forEachOwned { (slot, _, toPeer, toUser) throws(StateFault) in owned.append((slot, toPeer, toUser)) }
        for stream in owned {
            let user = try restoreLocal(inheritance, session, stream.slot)
            guard locals[user].pointee.inboundCount == stream.toPeer, locals[user].pointee.outboundCount == stream.toUser else {
                throw StateFault("a socket's bytes are not those that its stream counts")
            }
            let life = locals[user].pointee.life
            guard (life.inward == .ended) == session.endpoint.hasFinished(stream.slot),
                (life.outward != .open) == session.endpoint.hasPeerFinished(stream.slot),
                (life.outward == .ended) == session.endpoint.hasDrained(stream.slot)
            else { throw StateFault("a socket's ends are not those of its stream") }
            session.endpoint.adopt(stream.slot, owner: user)
        }
        session.age.note(entered: session.account.entered, left: session.account.left, now: Instant(nanoseconds: now))
        host.restored(session)
    }

    private func archiveIdentity(_ session: Session, _ archive: inout StateArchive) throws(StateFault) {
        var (high, low, secret) = (session.identity.high, session.identity.low, session.secret.words)
        try archive.number(&high)
        try archive.number(&low)
        try archive.number(&secret.0)
        try archive.number(&secret.1)
        try archive.number(&secret.2)
        try archive.number(&secret.3)
        // One that has a carrier is without one from the moment when somebody goes on with it, which only that one knows.
        var since = session.link.downSince ?? 0
        try archive.number(&since, in: 0...max(now, since))
        if since == 0 { since = now }
        try archive.number(&session.openedAt, in: 0...max(now, session.openedAt))
        try archive.text(&session.peerName, most: RegistryPolicy.nameMaximum)
        try archive.flag(&session.isProven)
        try archive.counter(&session.standbyNumber)
        guard !archive.isSaving else { return }
        session.identity = SessionIdentity(high: high, low: low)
        session.secret = Secret(secret.0, secret.1, secret.2, secret.3)
        session.link = .detached(since: since)
    }

    // MARK: Local sockets

    private func saveLocal(_ index: UInt32, _ archive: inout StateArchive) throws(StateFault) {
        let user = locals[index]
        precondition(user.pointee.life.inFlight.isEmpty, "a socket is saved while the kernel works on it")
        try saveSocket(user, &archive)
        archive.queue(user.pointee.inbound, arena)
        archive.queue(user.pointee.outbound, arena)
    }

    /// `session` nil: its stream is gone, and it waits until its user has taken the rest.
    private func restoreLocal(_ inheritance: Inheritance, _ session: Session?, _ slot: StreamSlot) throws(StateFault) -> UInt32 {
        var (fd, place): (Int32, UInt16) = (-1, 0)
        try inheritance.archive.number(&fd, in: -1...Int32.max)
        try inheritance.archive.number(&place)
        guard fd < 0 || inheritance.take(fd) else { throw StateFault("a socket that was not left open, or twice") }
        guard let place = inheritance.places[place] else { throw StateFault("a socket of a mapping that is not named") }
        let index = locals.restore(fd: fd, session, slot, mapping: place)
        inheritance.restored.append(index)
        let user = locals[index]
        try user.pointee.life.archive(&inheritance.archive)
        let inbound = try inheritance.archive.takeQueue(&user.pointee.inbound, arena)
        if let session { budget.holdUnplaced(inbound, &session.account) }
        budget.addPending(try inheritance.archive.takeQueue(&user.pointee.outbound, arena))
        guard (user.pointee.life.phase == .connecting) == (fd < 0), (user.pointee.life.phase == .flushing) == (session == nil), session != nil || inbound == 0
        else { throw StateFault("a socket is in a state that its session is not in") }
        return index
    }

    /// One whose stream is gone.
    private func restoreFlushing(_ inheritance: Inheritance) throws(StateFault) {
        let index = try restoreLocal(inheritance, nil, 0)
        timers.set(locals.token(index, .flushDeadline), at: now + Policy.flushMaximum.nanoseconds)
    }
}

// MARK: What ended after the last commit

extension RelayProcess {
    /// Operations of the process that died, which go on as if they had completed now. Once its sockets are restored.
    func replay(_ inheritance: Inheritance) {
        var sockets: [Token: UInt32] = [:]
        for (token, index) in zip(inheritance.order, inheritance.restored) { sockets[token] = index }
        for lost in inheritance.lost {
            guard lost.kind != .accepted else {
                listeners.adopt(lost.result, from: lost.descriptor)
                continue
            }
            guard let index = sockets[Token(kind: 0, index: lost.token.index, generation: lost.token.generation)] else { continue }
            let user = locals[index]
            ledger?.attend(to: user.pointee.session?.takeUnretainedValue())
            if lost.kind == .sent {
                locals.writer.sent(index, user, lost.result)
            } else {
                lost.bytes.withUnsafeBytes { locals.reader.received(index, user, lost.result, from: $0.baseAddress) }
            }
            locals.settle(index, user)
        }
    }
}

extension StateArchive {
    mutating func address(_ address: inout Address) throws(StateFault) {
        if isSaving {
            address.withPointer { pointer, length in appendBytes(UnsafeRawBufferPointer(start: pointer, count: Int(length))) }
            return
        }
        // The kernel's structures want to lie well.
        var storage = sockaddr_storage()
        let bytes = try takeBytes(most: MemoryLayout<sockaddr_storage>.size)
        withUnsafeMutableBytes(of: &storage) { $0.copyBytes(from: bytes) }
        let restored = withUnsafePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { Address($0, socklen_t(bytes.count)) }
        }
        guard bytes.count >= 2, let restored else { throw StateFault("an address that is none") }
        address = restored
    }

    /// All bytes of a queue, which lie in memory.
    mutating func queue(_ queue: byte_queue, _ arena: OpaquePointer) {
        var queue = queue
        var left = Int(queue.tail - queue.head)
        var place = queue.head
        var length = UInt64(left)
        try! number(&length)
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: 64) { pieces in
            while left > 0 {
                var gathered = 0
                let count = queue_gather(&queue, place, left, pieces.baseAddress, 64, &gathered)
                for index in 0..<Int(count) { appendRest(UnsafeRawBufferPointer(start: pieces[index].iov_base, count: pieces[index].iov_len)) }
                place += UInt64(gathered)
                left -= gathered
            }
        }
    }

    /// Returns how many were restored.
    mutating func takeQueue(_ queue: inout byte_queue, _ arena: OpaquePointer) throws(StateFault) -> Int {
        let bytes = try takeBytes(most: .max)
        var copied = 0
        while copied < bytes.count {
            let part = min(bytes.count - copied, Policy.copyAtOnce)
            guard queue_append_copy(&queue, arena, bytes.baseAddress! + copied, part) == 0 else { throw StateFault("there is not enough memory for it") }
            copied += part
        }
        return copied
    }
}
