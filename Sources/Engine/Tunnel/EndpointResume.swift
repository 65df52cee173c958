import Time
import Wire

/// The agreement on a new carrier: where each side goes on. The owner speaks HELLO and WELCOME; the offsets in them
/// come from here (docs/protocol.md §4).
extension Endpoint {
    /// What a client needs to take a carrier over when its WELCOME comes, fixed when HELLO was sent. The old carrier may
    /// go on meanwhile.
    public struct Offer: Equatable {
        public let reception: Reception
        /// What HELLO names as received.
        public var received: UInt64 { reception.position }
        public let replay: UInt64
        public let earlyByteCount: Int
    }

    /// Client: the offsets of a HELLO. Up to `earlyMaximum` retained bytes from `replay` on must follow it.
    public mutating func offer(earlyMaximum: Int) -> (offer: Offer, dataLimit: UInt64) {
        let early = isEstablished ? min(earlyMaximum, Specification.earlyMaximum, Int(sent - acknowledged)) : 0
        let offer = Offer(
            reception: Reception(position: received, reading: delivered), replay: acknowledged,
            earlyByteCount: early)
        handed = max(handed, acknowledged + UInt64(early))
        acknowledgmentCeiling = min(acknowledgmentCeiling, received)
        return (offer, announceDataLimit())
    }

    /// Client: another carrier won, but the HELLO with this offer is still under way and may win later.
    public mutating func keep(_ offer: Offer) {
        acknowledgmentCeiling = min(acknowledgmentCeiling, offer.received)
    }

    /// Client: no carrier with an open HELLO is left. What was held back on the old one is due.
    public mutating func withdrawOffers() {
        acknowledgmentCeiling = .max
        if acknowledgedToPeer < received { acknowledgmentDue = Instant(nanoseconds: 0) }
    }

    /// Client: the WELCOME of a carrier whose HELLO made `offer`. A fault: the server's offsets cannot be true; the
    /// session cannot go on.
    public mutating func resume(_ offer: Offer, _ welcome: Welcome, now: Instant) throws(ProtocolFault) {
        guard welcome.received >= acknowledged, welcome.received <= handed else {
            throw ProtocolFault("WELCOME names an offset that was never sent or is acknowledged already")
        }
        if !isEstablished {
            peerInitialCredit = min(welcome.initialCredit, Specification.initialCreditMaximum)
            isEstablished = true
        }
        peerMaximumStreams = welcome.maximumStreams
        epoch = welcome.epoch
        attach(
            peerReceived: welcome.received, cursor: max(welcome.received, offer.replay + UInt64(offer.earlyByteCount)),
            dataLimit: welcome.dataLimit, offer.reception, now)
    }

    /// Server: a HELLO whose proof holds. Returns what WELCOME says; nil: the HELLO was overtaken by acknowledgments of
    /// its own client, who must try again. A fault: the client's offsets cannot be true, the session cannot go on.
    public mutating func accept(_ hello: Hello, now: Instant) throws(ProtocolFault)
        -> (received: UInt64, dataLimit: UInt64)?
    {
        guard hello.received >= acknowledged else { return nil }
        guard hello.received <= handed else { throw ProtocolFault("HELLO names an offset that was never sent") }
        guard hello.replay <= received, epoch < .max else {
            throw ProtocolFault("HELLO replays from an offset that was never acknowledged")
        }
        if !isEstablished {
            isEstablished = true
            peerMaximumStreams = UInt64(limits.streams)
            peerInitialCredit = Specification.initialCreditMaximum
        }
        epoch += 1
        let skip = min(UInt64(hello.earlyByteCount), received - hello.replay)
        attach(
            peerReceived: hello.received, cursor: hello.received, dataLimit: hello.dataLimit,
            Reception(position: received - skip, reading: delivered, skip: skip), now)
        #if CANARIES
        if Canary.selected == .earlySkip, skip > 0 { reception.skip += 1 }
        #endif
        return (received, announceDataLimit())
    }

    /// The carrier is gone; everything that it had not acknowledged will be replayed.
    public mutating func carrierLost() {
        isAttached = false
        forgetControl()
    }

    private mutating func attach(
        peerReceived: UInt64, cursor newCursor: UInt64, dataLimit: UInt64,
        _ newReception: Reception, _ now: Instant
    ) {
        acknowledged = peerReceived
        cursor = newCursor
        #if CANARIES
        if Canary.selected == .wrongReplay, cursor < handed { cursor += 1 }
        #endif
        handed = max(handed, cursor)
        borders.removeThrough(acknowledged)
        resetsInFlight.removeThrough(acknowledged)
        peerDataLimit = max(peerDataLimit, dataLimit)
        reception = newReception
        acknowledgedToPeer = min(acknowledgedToPeer, received)
        acknowledgmentCeiling = .max
        acknowledgmentDue = now
        forgetControl()
        liveness.carrierAttached(now: now)
        isAttached = true
        isBatchOut = true
    }

    /// What was encoded for a carrier dies with it; a CLOSE that was not all handed over is owed again.
    private mutating func forgetControl() {
        if !controlBytes.range.isEmpty { closeIsEncoded = false }
        controlBytes = ControlBytes()
        isBatchOut = false
        owedPong = nil
        spreading = .no
    }
}
