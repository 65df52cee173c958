import State

/// Connections and bytes of each mapping, by its place, since the start: counted where bytes pass, so the cheapest way that there is.
struct Traffic: ~Copyable {
    struct Count {
        /// Bytes read from users or origins, and bytes that they took.
        var read: UInt64 = 0
        var taken: UInt64 = 0
        var opened: UInt64 = 0
        var open = 0
    }

    private var counts: UnsafeMutablePointer<Count>
    private var capacity = 16

    init() {
        counts = .allocate(capacity: capacity)
        counts.initialize(repeating: Count(), count: capacity)
    }

    deinit { counts.deallocate() }

    mutating func opened(_ place: MappingPlace) {
        makeRoom(place)
        counts[place.dense].opened += 1
        counts[place.dense].open += 1
    }

    /// A connection goes on that was opened before this program began.
    mutating func reopened(_ place: MappingPlace) {
        makeRoom(place)
        counts[place.dense].open += 1
    }

    /// All but what is open.
    mutating func archive(
        _ archive: inout StateArchive, name: (MappingPlace) -> String, place: (String, _ isOrigin: Bool) -> MappingPlace?
    ) throws(StateFault) {
        let used = archive.isSaving ? (0..<capacity).filter { counts[$0].opened > 0 } : []
        for index in 0..<(try archive.count(used.count, most: 1 << 16)) {
            var (text, isOrigin, count) = ("", false, Count())
            if archive.isSaving {
                let place = MappingPlace(dense: used[index])
                (text, isOrigin, count) = (name(place), place.isOrigin, counts[used[index]])
            }
            try archive.text(&text, most: 256)
            try archive.flag(&isOrigin)
            try archive.counter(&count.read)
            try archive.counter(&count.taken)
            try archive.counter(&count.opened)
            guard !archive.isSaving, let place = place(text, isOrigin) else { continue }
            makeRoom(place)
            count.open = 0
            counts[place.dense].add(count)
        }
    }

    func closed(_ place: MappingPlace) { counts[place.dense].open -= 1 }

    /// The place had a connection once.
    func read(_ place: MappingPlace, _ count: Int) { counts[place.dense].read += UInt64(count) }
    func taken(_ place: MappingPlace, _ count: Int) { counts[place.dense].taken += UInt64(count) }

    private mutating func makeRoom(_ place: MappingPlace) { if place.dense >= capacity { grow(to: place.dense + 1) } }

    private mutating func grow(to least: Int) {
        let larger = max(least, 2 * capacity)
        let fresh = UnsafeMutablePointer<Count>.allocate(capacity: larger)
        fresh.moveInitialize(from: counts, count: capacity)
        (fresh + capacity).initialize(repeating: Count(), count: larger - capacity)
        counts.deallocate()
        (counts, capacity) = (fresh, larger)
    }

    var total: Count {
        var total = Count()
        for place in 0..<capacity { total.add(counts[place]) }
        return total
    }

    /// By the labels that the places have. The `most` with most connections, and the others together.
    func byLabel(_ most: Int, _ label: (MappingPlace) -> String) -> [(name: String, count: Count)] {
        var sums: [String: Count] = [:]
        for place in 0..<capacity where counts[place].opened > 0 {
            sums[label(MappingPlace(dense: place)), default: Count()].add(counts[place])
        }
        return Traffic.bounded(sums, most)
    }

    /// No mapping and no client can be called `(others)`.
    static func bounded(_ sums: [String: Count], _ most: Int) -> [(name: String, count: Count)] {
        guard sums.count > most else { return sums.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }
        let sorted = sums.sorted { ($0.value.opened, $1.key) > ($1.value.opened, $0.key) }
        var rest = Count()
        for (_, count) in sorted[most...] { rest.add(count) }
        return sorted[..<most].sorted { $0.key < $1.key }.map { ($0.key, $0.value) } + [("(others)", rest)]
    }
}

extension Traffic.Count {
    mutating func add(_ other: Traffic.Count) {
        read += other.read
        taken += other.taken
        opened += other.opened
        open += other.open
    }
}
