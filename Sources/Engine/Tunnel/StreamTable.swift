/// The streams of one session: records in raw memory, found by slot or by identifier, no step linear in their number
/// except when the table doubles.
///
/// Identifiers are found by open addressing with linear probing and backward-shift deletion, so that a table that
/// lives for years does not fill with tombstones.
struct StreamTable: ~Copyable {
    static let none = StreamSlot.max

    private var records: UnsafeMutablePointer<Stream>
    /// Next free slot, by slot; meaningful for free slots only.
    private var links: UnsafeMutablePointer<StreamSlot>
    private var isUsed: UnsafeMutablePointer<Bool>
    private var capacity: Int
    private var freeHead = none
    private var buckets: UnsafeMutablePointer<StreamSlot>
    private var bucketMask: Int
    private(set) var count = 0
    /// Changes are noted: who was changed since they were last taken, and the records of those that are gone.
    private var notesChanges = false
    private var touched: [StreamSlot] = []
    private var removed: [UInt32] = []
    private let hashSeed: UInt64

    init(hashSeed: UInt64 = 0) {
        self.hashSeed = hashSeed
        capacity = 8
        records = .allocate(capacity: capacity)
        links = .allocate(capacity: capacity)
        isUsed = .allocate(capacity: capacity)
        buckets = .allocate(capacity: 16)
        buckets.initialize(repeating: StreamTable.none, count: 16)
        bucketMask = 15
        addFree(0..<capacity)
    }

    deinit {
        records.deallocate()
        links.deallocate()
        isUsed.deallocate()
        buckets.deallocate()
    }

    /// The record in a slot that is in use.
    /// Addressors, not coroutines: a coroutine yields a copy in a frame of its own, and an optimized build (-O, Swift 6.3) read a field of
    /// it after the frame was freed (found by Tests/Fuzz under AddressSanitizer).
    subscript(slot: StreamSlot) -> Stream {
        @inline(__always) unsafeAddress {
            assert(Int(slot) < capacity && isUsed[Int(slot)], "no stream in this slot")
            return UnsafePointer(records + Int(slot))
        }
        @inline(__always) unsafeMutableAddress {
            assert(Int(slot) < capacity && isUsed[Int(slot)], "no stream in this slot")
            if notesChanges { touch(slot) }
            return records + Int(slot)
        }
    }

    /// The same, for what no record has: the scheduler's lists.
    subscript(unnoted slot: StreamSlot) -> Stream {
        @inline(__always) unsafeAddress { UnsafePointer(records + Int(slot)) }
        @inline(__always) unsafeMutableAddress { records + Int(slot) }
    }

    func find(_ id: UInt64) -> StreamSlot? {
        var bucket = home(id)
        while buckets[bucket] != StreamTable.none {
            if records[Int(buckets[bucket])].id == id { return buckets[bucket] }
            bucket = (bucket + 1) & bucketMask
        }
        return nil
    }

    /// `stream.id` must be new.
    mutating func insert(_ stream: Stream) -> StreamSlot {
        if freeHead == StreamTable.none { grow() }
        let slot = freeHead
        freeHead = links[Int(slot)]
        (records + Int(slot)).initialize(to: stream)
        isUsed[Int(slot)] = true
        records[Int(slot)].isTouched = false
        if notesChanges { touch(slot) }
        count += 1
        place(slot)
        return slot
    }

    mutating func remove(_ slot: StreamSlot) {
        precondition(isUsed[Int(slot)], "removed a stream twice")
        var hole = home(records[Int(slot)].id)
        while buckets[hole] != slot { hole = (hole + 1) & bucketMask }
        var next = (hole + 1) & bucketMask
        while buckets[next] != StreamTable.none {
            // A follower may fill the hole unless its home lies between the hole and itself.
            let distance = (next - home(records[Int(buckets[next])].id)) & bucketMask
            if distance >= (next - hole) & bucketMask {
                buckets[hole] = buckets[next]
                hole = next
            }
            next = (next + 1) & bucketMask
        }
        buckets[hole] = StreamTable.none
        if notesChanges, records[Int(slot)].record != 0 { removed.append(records[Int(slot)].record) }
        isUsed[Int(slot)] = false
        links[Int(slot)] = freeHead
        freeHead = slot
        count -= 1
    }

    // MARK: Changes

    mutating func noteChanges() {
        notesChanges = true
        for slot in 0..<capacity where isUsed[slot] { touch(StreamSlot(slot)) }
    }

    /// Every access that may change a record comes by here: none can be forgotten.
    @inline(never)
    private mutating func touch(_ slot: StreamSlot) {
        guard !records[Int(slot)].isTouched else { return }
        records[Int(slot)].isTouched = true
        touched.append(slot)
    }

    /// The record of a stream that was removed. Nil: no more.
    mutating func takeRemoved() -> UInt32? { removed.popLast() }

    /// A stream that was changed, each once. Nil: no more.
    mutating func takeTouched() -> StreamSlot? {
        while let slot = touched.popLast() {
            guard isUsed[Int(slot)], records[Int(slot)].isTouched else { continue }
            records[Int(slot)].isTouched = false
            return slot
        }
        return nil
    }

    func owner(_ slot: StreamSlot) -> StreamOwner { records[Int(slot)].owner }
    func record(_ slot: StreamSlot) -> UInt32 { records[Int(slot)].record }
    mutating func setRecord(_ slot: StreamSlot, _ record: UInt32) { records[Int(slot)].record = record }

    /// Calls `body` for every stream. Linear: for the end of a session only.
    func forEach(_ body: (StreamSlot, borrowing Stream) -> Void) {
        for slot in 0..<capacity where isUsed[slot] { body(StreamSlot(slot), records[slot]) }
    }

    /// Every slot in use, by identifier. Linear, and more: for a process that is handed over.
    var sorted: [StreamSlot] {
        var slots: [StreamSlot] = []
        forEach { slot, _ in slots.append(slot) }
        return slots.sorted { records[Int($0)].id < records[Int($1)].id }
    }

    /// Multiplication by odd numbers that the peer does not know: what collides under one seed does not under another.
    private func home(_ id: UInt64) -> Int { home(id, mask: bucketMask) }

    func home(_ id: UInt64, mask: Int) -> Int {
        let odd = hashSeed | 1
        var bits = (id ^ hashSeed) &* 0x9e37_79b9_7f4a_7c15 &* odd
        bits = (bits ^ bits >> 32) &* (odd << 32 | odd >> 32 | 1) &* 0xbf58_476d_1ce4_e5b9
        return Int(truncatingIfNeeded: bits >> 32) & mask
    }

    private mutating func place(_ slot: StreamSlot) {
        var bucket = home(records[Int(slot)].id)
        while buckets[bucket] != StreamTable.none { bucket = (bucket + 1) & bucketMask }
        buckets[bucket] = slot
    }

    private mutating func addFree(_ slots: Range<Int>) {
        for slot in slots.reversed() {
            isUsed[slot] = false
            links[slot] = freeHead
            freeHead = StreamSlot(slot)
        }
    }

    private mutating func grow() {
        let old = capacity
        capacity *= 2
        records = moved(records, old)
        links = moved(links, old)
        isUsed = moved(isUsed, old)
        addFree(old..<capacity)
        buckets.deallocate()
        buckets = .allocate(capacity: capacity * 2)
        buckets.initialize(repeating: StreamTable.none, count: capacity * 2)
        bucketMask = capacity * 2 - 1
        for slot in 0..<old where isUsed[slot] { place(StreamSlot(slot)) }
    }

    private func moved<Element>(_ memory: UnsafeMutablePointer<Element>, _ count: Int) -> UnsafeMutablePointer<Element> {
        let larger = UnsafeMutablePointer<Element>.allocate(capacity: capacity)
        larger.moveInitialize(from: memory, count: count)
        memory.deallocate()
        return larger
    }
}
