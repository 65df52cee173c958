import Loop

/// Objects found by the index and generation in a token.
struct SlotTable<Element: AnyObject> {
    private var entries: [(element: Element?, generation: UInt32)] = []
    private var free: [UInt32] = []
    private(set) var count = 0

    /// The place of the next element, which `make` builds from its index and generation.
    mutating func insert(_ make: (UInt32, UInt32) -> Element) -> Element {
        if free.isEmpty {
            free.append(UInt32(entries.count))
            entries.append((nil, 0))
        }
        let index = free.removeLast()
        let element = make(index, entries[Int(index)].generation)
        entries[Int(index)].element = element
        count += 1
        return element
    }

    @inline(__always)
    func find(_ token: Token) -> Element? {
        let index = Int(token.index)
        guard index < entries.count, entries[index].generation == token.generation else { return nil }
        return entries[index].element
    }

    mutating func remove(_ index: UInt32) {
        guard entries[Int(index)].element != nil else { return }
        entries[Int(index)].element = nil
        entries[Int(index)].generation = (entries[Int(index)].generation + 1) & 0xff_ffff
        free.append(index)
        count -= 1
    }

    func find(_ index: UInt32) -> Element? {
        Int(index) < entries.count ? entries[Int(index)].element : nil
    }

    /// Linear: for the rare.
    var all: [Element] { entries.compactMap(\.element) }
}
