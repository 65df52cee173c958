import Wire

/// Streams that the peer opened and that were refused at once: nothing of them is kept but the RESET that is owed.
/// Bounded by the number of streams that the peer may have open, because it counts each until its RESET has come.
struct Refusals {
    private var owed: [(id: UInt64, code: UInt64)] = []
    private var first = 0

    var count: Int { owed.count - first }
    var isEmpty: Bool { owed.isEmpty }

    mutating func append(_ id: UInt64, _ code: ResetCode) { owed.append((id, code.rawValue)) }

    /// Oldest first; there must be one.
    mutating func removeFirst() -> (id: UInt64, code: UInt64) {
        let refusal = owed[first]
        first += 1
        if first == owed.count {
            owed = []
            first = 0
        } else if first >= 1024, first * 2 > owed.count {
            owed.removeFirst(first)
            first = 0
        }
        return refusal
    }
}
