import State
import Time
import Wire

/// A stream's index in its table. Valid until the stream is over.
public typealias StreamSlot = UInt32

/// What the owner knows a stream by: the index of its socket.
public typealias StreamOwner = UInt32

/// One proxied connection: two halves, and what the scheduler notes about them.
struct Stream {
    let id: UInt64
    var owner: StreamOwner
    var send: SendHalf
    var receive: ReceiveHalf

    /// Control frames that must take their place in the session's sequence.
    struct Pending: OptionSet {
        let rawValue: UInt8
        static let open = Pending(rawValue: 1)
        static let credit = Pending(rawValue: 2)
        static let reset = Pending(rawValue: 4)
        static let fin = Pending(rawValue: 8)
    }
    var pending: Pending = []
    /// Meant with `Pending.open` and `Pending.reset`.
    var target: UInt64 = 0
    var resetCode: UInt64 = 0

    /// The data list that the stream is in, and its neighbours there (`StreamTable.none` at the ends).
    enum Place: UInt8 { case none, sparse, bulk }
    var place: Place = .none
    var deficit: Int32 = 0
    /// It left the lists for want of credit.
    var wasBlocked = false
    var dataNext = StreamTable.none
    var dataPrevious = StreamTable.none
    /// The list of control frames that it is in.
    enum ControlPlace: UInt8 { case none, control, opening, resetting }
    var controlPlace: ControlPlace = .none
    var controlNext = StreamTable.none
    var controlPrevious = StreamTable.none
    /// Its owner's, where changes are noted (`StreamTable.noteChanges`), and whether it is in the list of those that changed.
    var record: UInt32 = 0
    var isTouched = false

    /// The stream is over when both halves have ended in order.
    var isOver: Bool { send.isFinished && receive.isDrained && pending.isEmpty }
}

/// Our bytes towards the peer.
///
///     open ──finish──▶ finishing ──all bytes sequenced, FIN──▶ finished
struct SendHalf {
    private enum State: UInt8 { case open, finishing, finished }
    private var state: State = .open
    /// Bytes that the owner holds and that have no place in the session's sequence yet.
    private(set) var waiting = 0
    /// Bytes that have one: the stream offset of the next.
    private(set) var sequenced: UInt64 = 0
    /// The peer's absolute limit on `sequenced`.
    private(set) var limit: UInt64

    init(limit: UInt64) { self.limit = limit }

    var isOpen: Bool { state == .open }
    var isFinished: Bool { state == .finished }
    /// FIN may take its place now.
    var owesFin: Bool { state == .finishing && waiting == 0 }
    /// Bytes that may be sent beyond those that were.
    var credit: Int { Int(limit - sequenced) }
    /// What the peer has reserved for the stream; bounded, so that a sum over all streams does not overflow.
    var promised: UInt64 { state == .finished ? 0 : min(limit - sequenced, 1 << 40) }
    /// Bytes that credit allows now.
    var sendable: Int { min(waiting, credit) }
    var hasWork: Bool { sendable > 0 }

    mutating func write(_ count: Int) {
        precondition(state == .open, "written to a finished half")
        waiting += count
    }

    mutating func finish() {
        precondition(state == .open, "finished twice")
        state = .finishing
    }

    mutating func take(_ count: Int) {
        precondition(count <= sendable, "sent more than credit allows")
        waiting -= count
        sequenced += UInt64(count)
    }

    mutating func finSequenced() {
        precondition(owesFin, "FIN before the last byte")
        state = .finished
    }

    /// Absolute and monotonic: an older limit changes nothing.
    mutating func raise(limit newLimit: UInt64) {
        limit = max(limit, newLimit)
    }

    /// Nothing more will be sent: bytes without a place are the owner's again.
    mutating func abandon() {
        waiting = 0
        state = .finished
    }

    mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        try archive.choice(&state)
        try archive.number(&waiting, in: 0...(1 << 40))
        try archive.number(&sequenced, in: 0...Specification.offsetMaximum)
        try archive.number(&limit, in: sequenced...Specification.offsetMaximum)
        guard waiting == 0 || state != .finished else { throw StateFault("bytes wait behind the end of a stream") }
    }
}

/// The peer's bytes towards our user.
///
///     open ──FIN──▶ finished ──all consumed and the end passed on──▶ drained
struct ReceiveHalf {
    private enum State: UInt8 { case open, finished, drained }
    private var state: State = .open
    private(set) var received: UInt64 = 0
    private(set) var consumed: UInt64 = 0
    private(set) var window: CreditWindow
    /// Of `outstanding`: bytes that the user's socket had no room for when they were granted. They may have to wait in memory.
    private(set) var reserved: UInt64
    /// The stream was reset on this side: later bytes are discarded.
    private var isAbandoned = false

    init(initial: UInt64, now: Instant) {
        window = CreditWindow(initial: initial, now: now)
        reserved = initial
    }

    /// Bytes that the peer was granted and the user has not taken.
    var outstanding: UInt64 {
        if isAbandoned { return 0 }
        return state == .open ? window.target - consumed : received - consumed
    }

    var isOpen: Bool { state == .open }
    var isDrained: Bool { state == .drained }
    var held: UInt64 { received - consumed }

    mutating func receive(_ count: UInt64) throws(ProtocolFault) {
        guard state == .open else { throw ProtocolFault("bytes after the end of a stream") }
        guard count <= window.limit - received else { throw ProtocolFault("a stream exceeds its credit") }
        received += count
    }

    mutating func receiveFin(finalSize: UInt64) throws(ProtocolFault) {
        guard state == .open else { throw ProtocolFault("a second end of a stream") }
        guard finalSize == received else { throw ProtocolFault("the final size of a stream is not what arrived") }
        state = .finished
        reserved = min(reserved, outstanding)
    }

    /// The user took `count` bytes, and its socket takes `room` more at once. True when new credit should be told.
    mutating func consume(_ count: UInt64, ceiling: UInt64, room: UInt64, roundTrip: Interval, now: Instant) -> Bool {
        precondition(count <= held, "consumed more than arrived")
        consumed += count
        reserved = min(reserved, outstanding)
        guard state == .open, ceiling > 0, window.consumed(to: consumed, ceiling: ceiling, roundTrip: roundTrip, now: now) else { return false }
        reserved = outstanding - min(room, outstanding)
        return true
    }

    /// The stream was reset on this side.
    mutating func abandon() {
        isAbandoned = true
        reserved = 0
    }

    mutating func drain() {
        precondition(state == .finished && held == 0, "drained before the last byte")
        state = .drained
    }

    mutating func tellCredit() -> UInt64 { window.tell() }

    mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        try archive.choice(&state)
        try archive.flag(&isAbandoned)
        try archive.number(&received, in: 0...Specification.offsetMaximum)
        try archive.number(&consumed, in: 0...received)
        try window.archive(&archive)
        try archive.number(&reserved)
        // A sum over all streams must not overflow.
        guard received <= window.limit, reserved <= outstanding, outstanding <= 1 << 38 else { throw StateFault("a stream has more than it was granted") }
        guard state != .drained || held == 0 || isAbandoned else { throw StateFault("a stream ended before its last byte") }
    }
}
