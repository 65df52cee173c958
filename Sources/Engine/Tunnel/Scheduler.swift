/// Who goes next on the carrier: control first, then sparse streams, then the rest by deficit round robin
/// (RFC 8290 §4.1, without its CoDel).
///
/// A stream that gets something to send enters the sparse list with one quantum. When the quantum is used up it
/// stands with the bulk. A sparse stream that runs dry while others wait goes behind the bulk once before it leaves,
/// so that nobody stays sparse by sending often; one that was blocked comes back behind the bulk, so that nobody stays
/// sparse by having little credit.
struct Scheduler {
    /// Bytes that a stream may send before it is another's turn, at most and at least: many turns cost frames, long ones cost
    /// time on a slow path.
    static let quantum: Int32 = 64 << 10
    static let quantumMinimum: Int32 = 4 << 10
    private(set) var quantum = Scheduler.quantum

    private var sparse = List()
    private var bulk = List()
    private var control = List()
    /// Streams whose OPEN has no place yet. Apart from the others: it waits for a carrier that works.
    private var opening = List()
    /// Streams of ours that are reset, at a pace that the peer accepts (`ResetPace`).
    private var resetting = List()

    struct List {
        var first = StreamTable.none
        var last = StreamTable.none
        var isEmpty: Bool { first == StreamTable.none }
    }

    var hasControl: Bool { !control.isEmpty }
    var hasData: Bool { !sparse.isEmpty || !bulk.isEmpty }
    var firstControl: StreamSlot { control.first }
    /// `none` when there is none.
    var firstOpening: StreamSlot { opening.first }
    var firstResetting: StreamSlot { resetting.first }

    /// The stream whose turn it is, with a deficit above zero; `none` when no stream waits.
    mutating func nextData(_ table: inout StreamTable) -> StreamSlot {
        while true {
            let slot = sparse.isEmpty ? bulk.first : sparse.first
            guard slot != StreamTable.none else { return slot }
            if table[unnoted: slot].deficit > 0 { return slot }
            table[unnoted: slot].deficit += quantum
            remove(slot, &table)
            append(slot, .bulk, &table)
        }
    }

    mutating func setQuantum(_ count: Int) {
        quantum = Int32(min(max(Int(Scheduler.quantumMinimum), count), Int(Scheduler.quantum)))
    }

    /// True when no other stream waits, so that turns need not be kept.
    func isAlone(_ slot: StreamSlot) -> Bool {
        (sparse.first == slot && sparse.last == slot && bulk.isEmpty)
            || (sparse.isEmpty && bulk.first == slot && bulk.last == slot)
    }

    mutating func ready(_ slot: StreamSlot, _ table: inout StreamTable) {
        guard table[unnoted: slot].place == .none else { return }
        if table[unnoted: slot].wasBlocked {
            table[unnoted: slot].wasBlocked = false
            append(slot, .bulk, &table)
        } else {
            table[unnoted: slot].deficit = quantum
            append(slot, .sparse, &table)
        }
    }

    /// The stream whose turn it was has nothing more to send.
    mutating func ranDry(_ slot: StreamSlot, _ table: inout StreamTable) {
        let wasSparse = table[unnoted: slot].place == .sparse
        remove(slot, &table)
        if wasSparse && !bulk.isEmpty { append(slot, .bulk, &table) }
    }

    /// The stream whose turn it was has more to send than its credit covers: `ready` follows new credit.
    mutating func blocked(_ slot: StreamSlot, _ table: inout StreamTable) {
        remove(slot, &table)
        table[unnoted: slot].wasBlocked = true
    }

    mutating func addControl(_ slot: StreamSlot, _ table: inout StreamTable) { add(slot, .control, &table) }

    mutating func addOpening(_ slot: StreamSlot, _ table: inout StreamTable) { add(slot, .opening, &table) }

    mutating func addResetting(_ slot: StreamSlot, _ table: inout StreamTable) { add(slot, .resetting, &table) }

    private mutating func add(_ slot: StreamSlot, _ place: Stream.ControlPlace, _ table: inout StreamTable) {
        guard table[unnoted: slot].controlPlace == .none else { return }
        var list = self[place]
        table[unnoted: slot].controlPlace = place
        table[unnoted: slot].controlNext = StreamTable.none
        table[unnoted: slot].controlPrevious = list.last
        if list.isEmpty { list.first = slot } else { table[unnoted: list.last].controlNext = slot }
        list.last = slot
        self[place] = list
    }

    mutating func removeControl(_ slot: StreamSlot, _ table: inout StreamTable) {
        let place = table[unnoted: slot].controlPlace
        guard place != .none else { return }
        let (next, previous) = (table[unnoted: slot].controlNext, table[unnoted: slot].controlPrevious)
        if previous != StreamTable.none { table[unnoted: previous].controlNext = next }
        if next != StreamTable.none { table[unnoted: next].controlPrevious = previous }
        if self[place].first == slot { self[place].first = next }
        if self[place].last == slot { self[place].last = previous }
        table[unnoted: slot].controlPlace = .none
    }

    private subscript(_ place: Stream.ControlPlace) -> List {
        get {
            switch place {
            case .none: List()
            case .control: control
            case .opening: opening
            case .resetting: resetting
            }
        }
        set {
            switch place {
            case .none: preconditionFailure("a list that is none")
            case .control: control = newValue
            case .opening: opening = newValue
            case .resetting: resetting = newValue
            }
        }
    }

    /// Takes the stream out of every list, before it leaves the table.
    mutating func forget(_ slot: StreamSlot, _ table: inout StreamTable) {
        remove(slot, &table)
        removeControl(slot, &table)
    }

    private mutating func append(_ slot: StreamSlot, _ place: Stream.Place, _ table: inout StreamTable) {
        let last = place == .sparse ? sparse.last : bulk.last
        table[unnoted: slot].place = place
        table[unnoted: slot].dataNext = StreamTable.none
        table[unnoted: slot].dataPrevious = last
        if last != StreamTable.none { table[unnoted: last].dataNext = slot }
        if place == .sparse {
            if sparse.isEmpty { sparse.first = slot }
            sparse.last = slot
        } else {
            if bulk.isEmpty { bulk.first = slot }
            bulk.last = slot
        }
    }

    private mutating func remove(_ slot: StreamSlot, _ table: inout StreamTable) {
        let place = table[unnoted: slot].place
        guard place != .none else { return }
        let (next, previous) = (table[unnoted: slot].dataNext, table[unnoted: slot].dataPrevious)
        if previous != StreamTable.none { table[unnoted: previous].dataNext = next }
        if next != StreamTable.none { table[unnoted: next].dataPrevious = previous }
        if place == .sparse {
            if sparse.first == slot { sparse.first = next }
            if sparse.last == slot { sparse.last = previous }
        } else {
            if bulk.first == slot { bulk.first = next }
            if bulk.last == slot { bulk.last = previous }
        }
        table[unnoted: slot].place = .none
    }
}
