import State
import Wire

/// Streams that the peer opened and that were refused at once: nothing of them is kept but the RESET that is owed.
/// Bounded (`Endpoint.refusalsMaximum`): an honest peer counts each as open until its RESET has come, and they leave faster than
/// connections can be made.
struct Refusals {
    /// Half of the identifier, whose lowest bit says who opened it, and the code in three bits.
    private var owed: [UInt64] = []
    private var first = 0
    /// The lowest bit of all identifiers.
    private let parity: UInt64

    init(parity: UInt64) { self.parity = parity }

    var count: Int { owed.count - first }
    var isEmpty: Bool { owed.isEmpty }

    mutating func append(_ id: UInt64, _ code: ResetCode) {
        precondition(code.rawValue < 8 && id & 1 == parity, "a refusal that cannot be kept")
        owed.append((id >> 1) << 3 | code.rawValue)
    }

    /// Oldest first; there must be one.
    mutating func removeFirst() -> (id: UInt64, code: UInt64) {
        let refusal = (id: (owed[first] >> 3) << 1 | parity, code: owed[first] & 7)
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

    mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        owed.removeFirst(first)
        first = 0
        try archive.list(&owed, most: Endpoint.refusalsMaximum, blank: 0) { (word, archive) throws(StateFault) in
            try archive.number(&word, in: 0...(Specification.offsetMaximum << 2 | 7))
        }
    }
}
