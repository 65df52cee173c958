import State
import Time
import Wire

/// What of an endpoint outlives its process. A carrier is no part of it: the endpoint has none when it is saved, and its
/// successor resumes as after any outage (docs/internals/outliving.md).
extension Endpoint {
    /// Saves, or restores into an endpoint that has been used for nothing, all but its limits: they are its owner's. Restored streams
    /// that had an owner have the owner `placeholder`, until `adopt`.
    public mutating func archive(_ archive: inout StateArchive, now: Instant) throws(StateFault) {
        precondition(!isAttached, "an endpoint is saved or restored while it has a carrier")
        try archiveSent(&archive)
        try borders.archive(&archive, end: sent, dataEnd: dataFramed)
        try resetsInFlight.archive(&archive, end: sent, dataEnd: 0)
        guard dataSent <= dataFramed, dataSent <= peerDataLimit else { throw StateFault("more was sent than the peer takes") }
        try archiveReceived(&archive)
        try archiveNumbers(&archive)
        try archiveStreams(&archive, now)
    }

    // MARK: Piece by piece, for a process that may die at any moment

    /// Saves what `archive` saves before the frame borders, and what it saves between them and the streams. Borders need not be saved: frames
    /// say their length, so all behind one border are found again (`Borders`).
    public mutating func saveSent(_ archive: inout StateArchive) throws(StateFault) { try archiveSent(&archive) }
    public mutating func saveReceived(_ archive: inout StateArchive) throws(StateFault) {
        try archiveReceived(&archive)
        try archiveNumbers(&archive)
    }

    /// The first border that is known at or behind `offset`.
    public func border(from offset: UInt64) -> UInt64 { borders.first(from: offset) ?? sent }

    /// Saves identifier and state of a stream, as `archive` does.
    public mutating func saveStream(_ slot: StreamSlot, _ archive: inout StateArchive) throws(StateFault) {
        // A copy: what only reads changes nothing.
        var stream = table[slot]
        var id = stream.id
        try archive.number(&id)
        try stream.archive(&archive)
    }

    /// All changes of streams from here on are noted.
    public mutating func noteChanges() { table.noteChanges() }

    /// Calls `save` for each stream that came or changed since the last call, with its owner and its record's number, which it may set; and
    /// `drop` with the record of each that has gone.
    public mutating func takeChanges<Fault>(
        _ save: (inout Endpoint, StreamSlot, StreamOwner, inout UInt32) throws(Fault) -> Void, drop: (UInt32) -> Void
    ) throws(Fault) {
        while let record = table.takeRemoved() { drop(record) }
        while let slot = table.takeTouched() {
            var record = table.record(slot)
            try save(&self, slot, table.owner(slot), &record)
            table.setRecord(slot, record)
        }
    }

    /// Of each stream, for the process that ends its session: the record's number.
    public func forEachRecord(_ body: (UInt32) -> Void) { table.forEach { _, stream in if stream.record != 0 { body(stream.record) } } }

    public static let placeholder = StreamOwner.max - 1

    private mutating func archiveSent(_ archive: inout StateArchive) throws(StateFault) {
        let most = Specification.offsetMaximum
        try archive.mark(0x656e_6470_6f69_6e74)
        try archive.flag(&isEstablished)
        try archive.number(&epoch)
        try archive.number(&sent, in: 0...most)
        try archive.number(&handed, in: 0...sent)
        try archive.number(&acknowledged, in: 0...handed)
        try archive.number(&cursor, in: 0...handed)
        try archive.number(&dataSent, in: 0...most)
        try archive.number(&dataFramed, in: 0...sent)
        try archive.number(&peerDataLimit, in: 0...most)
        try archive.number(&peerInitialCredit, in: 0...Specification.initialCreditMaximum)
        try archive.number(&peerMaximumStreams)
    }

    private mutating func archiveReceived(_ archive: inout StateArchive) throws(StateFault) {
        let most = Specification.offsetMaximum
        try archive.number(&received, in: 0...most)
        try archive.number(&acknowledgedToPeer, in: 0...received)
        try archive.number(&announcedDataLimit, in: 0...most)
        try archive.number(&toldDataLimit, in: 0...announcedDataLimit)
        try archive.number(&dataReceived, in: 0...announcedDataLimit)
        try archive.number(&dataConsumed, in: 0...dataReceived)
        try archive.number(&delivered.stream)
        try archive.number(&delivered.payloadRemaining, in: 0...Specification.dataBodyMaximum)
        guard !archive.isSaving else { return }
        #if CANARIES
        if Canary.selected == .forgetsHalfFrame { delivered = .betweenFrames }
        #endif
        heardReceived = received
        reception = Reception(position: received, reading: delivered)
    }

    private mutating func archiveNumbers(_ archive: inout StateArchive) throws(StateFault) {
        try archive.number(&nextOwnID, in: nextOwnID...Specification.offsetMaximum)
        try archive.number(&nextPeerID, in: nextPeerID...Specification.offsetMaximum)
        guard nextOwnID & 1 == (role == .client ? 0 : 1), nextPeerID & 1 != nextOwnID & 1 else { throw StateFault("a stream's number is not its side's") }
        try refusals.archive(&archive)
    }

    private mutating func archiveStreams(_ archive: inout StateArchive, _ now: Instant) throws(StateFault) {
        let slots = archive.isSaving ? table.sorted : []
        let count = try archive.count(slots.count, most: 1 << 24)
        var (held, previous): (UInt64, UInt64?) = (0, nil)
        for index in 0..<count {
            var id = archive.isSaving ? table[slots[index]].id : 0
            try archive.number(&id)
            guard previous.map({ $0 < id }) ?? true, id < (isOwn(id) ? nextOwnID : nextPeerID) else { throw StateFault("a stream has a number that none has") }
            previous = id
            var stream =
                archive.isSaving
                ? table[slots[index]]
                : Stream(id: id, owner: .max, send: SendHalf(limit: 0), receive: ReceiveHalf(initial: 0, now: now))
            try stream.archive(&archive)
            held += stream.pending.contains(.reset) ? 0 : stream.receive.held
            if !archive.isSaving { restore(stream) }
        }
        guard held == dataReceived - dataConsumed else { throw StateFault("bytes are nobody's") }
    }

    private mutating func restore(_ stream: Stream) {
        let slot = insert(stream)
        if stream.pending.contains(.open) {
            scheduler.addOpening(slot, &table)
        } else if stream.pending.contains(.reset), isOwn(stream.id) {
            scheduler.addResetting(slot, &table)
        } else if !stream.pending.isEmpty {
            scheduler.addControl(slot, &table)
        }
        if stream.send.hasWork { scheduler.ready(slot, &table) }
    }

    /// Calls `body` with slot, owner, and what lies with the owner, of every stream that has one, by identifier: bytes that wait for the
    /// peer, and bytes that wait for the user.
    public func forEachOwned(_ body: (StreamSlot, StreamOwner, _ toPeer: Int, _ toUser: Int) throws(StateFault) -> Void) throws(StateFault) {
        for slot in table.sorted where table[slot].owner != .max {
            let stream = table[slot]
            let begun = stream.id == delivered.stream ? min(stream.receive.held, UInt64(delivered.payloadRemaining)) : 0
            try body(slot, stream.owner, stream.send.waiting, Int(clamping: stream.receive.held - begun))
        }
    }
}

extension Stream {
    fileprivate mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        var isOwned = owner != .max
        try archive.flag(&isOwned)
        try send.archive(&archive)
        try receive.archive(&archive)
        var raw = pending.rawValue
        try archive.number(&raw, in: 0...15)
        try archive.number(&target, in: 0...Varint.maximum)
        try archive.number(&resetCode, in: 0...Varint.maximum)
        guard !archive.isSaving else { return }
        (owner, pending) = (isOwned ? Endpoint.placeholder : .max, Pending(rawValue: raw))
        // One that is reset is nobody's, and nothing else is; the flags exclude each other where the sequence does.
        guard isOwned != pending.contains(.reset), !pending.contains(.reset) || pending == .reset,
            !pending.contains(.open) || send.sequenced == 0 && send.limit == 0 && pending.isDisjoint(with: .fin),
            !pending.contains(.fin) || send.owesFin, !isOver
        else { throw StateFault("a stream owes what it cannot owe") }
    }
}
