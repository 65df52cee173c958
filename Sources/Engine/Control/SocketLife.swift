import State

/// The life of a user's or an origin's socket: the near end of one stream. Pure: counts bytes in none of its decisions,
/// is told what happened and says what the owner must do.
///
///     phase:    connecting ──▶ open ──▶ flushing ──▶ closing ──nothing in flight──▶ gone
///     inward:   open ──FIN──▶ ended            outward:  open ──peer's FIN──▶ finishing ──all taken──▶ ended
///                 └──RST──▶ broken ──▶ (closing)
///
/// Inward is what the user writes, outward what it is sent. Flushing: the stream is gone, bytes of it still wait for the
/// user; behind them comes the end that the stream had.
public struct SocketLife: Equatable {
    public enum Phase: UInt8, Sendable { case connecting, open, flushing, closing }
    public enum Inward: UInt8, Sendable {
        case open
        /// The user's FIN was passed on.
        case ended
        /// The user's connection was reset; RESET follows the bytes that credit still covers.
        case broken
    }
    public enum Outward: UInt8, Sendable { case open, finishing, ended }
    /// How a socket leaves the user: FIN, or RST.
    public enum CloseMode: UInt8, Sendable { case orderly, reset }

    public struct InFlight: OptionSet, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        public static let receive = InFlight(rawValue: 1)
        public static let send = InFlight(rawValue: 2)
        public static let watch = InFlight(rawValue: 4)
    }

    public private(set) var phase: Phase
    public private(set) var inward = Inward.open
    public private(set) var outward = Outward.open
    /// The kernel holds these operations; the descriptor outlives them.
    public private(set) var inFlight: InFlight = []
    /// Of a flushing or closing socket.
    public private(set) var farewell = CloseMode.reset

    public init(isConnecting: Bool) { phase = isConnecting ? .connecting : .open }

    // MARK: Operations

    public mutating func submitted(_ operation: InFlight) {
        precondition(inFlight.isDisjoint(with: operation), "two operations of a kind at once")
        precondition(phase != .closing, "an operation on a closing socket")
        inFlight.insert(operation)
    }

    public mutating func completed(_ operation: InFlight) { inFlight.remove(operation) }

    public var mayReceive: Bool { phase == .open && inward == .open && !inFlight.contains(.receive) }
    /// Bytes for the user may be sent.
    public var maySend: Bool { (phase == .open || phase == .flushing) && !inFlight.contains(.send) }
    /// The stream is still this socket's: what the user does concerns the session.
    public var hasStream: Bool { phase == .connecting || phase == .open }
    public var mayWatch: Bool { phase == .open && !inFlight.contains(.watch) }
    /// Nothing is in flight and nothing is to come: close the descriptor.
    public var mayRelease: Bool { phase == .closing && inFlight.isEmpty }

    // MARK: Events

    public mutating func connected() {
        guard phase == .connecting else { return }
        phase = .open
    }

    /// The user's FIN.
    public mutating func receivedFin() {
        precondition(phase == .open && inward == .open, "a second end of a user's bytes")
        inward = .ended
    }

    public enum Break: Equatable { case none, resetNow, resetLater }

    /// The user's connection was reset, or refuses bytes. `coversRest`: bytes wait that were written before, and credit
    /// covers them all: they go first.
    public mutating func receivedReset(coversRest: Bool) -> Break {
        guard phase == .open, inward != .broken else { return .none }
        if coversRest, inward == .open {
            inward = .broken
            return .resetLater
        }
        return .resetNow
    }

    /// The peer's FIN, behind the last byte for the user.
    public mutating func receivedPeerFin() {
        if outward == .open { outward = .finishing }
    }

    public enum Taken: Equatable { case none, finish, close(CloseMode) }

    /// All bytes for the user so far have been taken. `.finish`: pass the FIN on, now.
    public mutating func tookAll() -> Taken {
        switch (phase, outward) {
        case (.open, .finishing):
            outward = .ended
            return .finish
        case (.flushing, _):
            return .close(farewell)
        case (.connecting, _), (.open, _), (.closing, _):
            return .none
        }
    }

    public enum StreamEnd: Equatable { case closeNow(CloseMode), flush, none }

    /// The stream was reset by the peer, or its session ended; `hasBytes` of it wait for the user. `isComplete`: the
    /// session ended, and the peer has everything that the user wrote. Then a stream both of whose halves ended is as good
    /// as over: its rest is delivered, and its end is in order.
    public mutating func streamEnded(hasBytes: Bool, isComplete: Bool) -> StreamEnd {
        guard hasStream else { return .none }
        let isOrderly = isComplete && inward == .ended && outward != .open
        farewell = isOrderly ? .orderly : .reset
        guard phase == .open, hasBytes || isOrderly && outward == .finishing else { return .closeNow(farewell) }
        phase = .flushing
        return .flush
    }

    /// Ends it. True: it was not closing yet; then operations in flight must be cancelled.
    public mutating func close(_ farewell: CloseMode) -> Bool {
        guard phase != .closing else { return false }
        phase = .closing
        self.farewell = farewell
        return true
    }

    /// For sockets that are not closing. Operations in flight are no part of it.
    public mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        precondition(phase != .closing, "a socket is saved that closes")
        try archive.choice(&phase)
        try archive.choice(&inward)
        try archive.choice(&outward)
        try archive.choice(&farewell)
        guard phase != .closing, phase != .connecting || inward == .open else { throw StateFault("a socket is in a state that is not saved") }
    }
}
