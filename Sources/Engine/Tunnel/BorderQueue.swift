import State

/// Frame borders that a replay may stop at to let an acknowledgment through: a FIFO of increasing session offsets, each with
/// the bytes of all DATA frames before it.
struct BorderQueue: ~Copyable {
    private struct Border {
        var offset: UInt64
        var data: UInt64
    }

    private var memory: UnsafeMutablePointer<Border>
    private var mask: Int
    private var head = 0
    private(set) var count = 0
    /// Bytes of DATA frames before the last border that was removed.
    private(set) var dataRemoved: UInt64 = 0

    init() {
        memory = .allocate(capacity: 16)
        mask = 15
    }

    deinit { memory.deallocate() }

    var last: UInt64? { count == 0 ? nil : memory[(head + count - 1) & mask].offset }

    mutating func append(_ offset: UInt64, data: UInt64) {
        assert(last.map { $0 < offset } ?? true, "offsets must increase")
        if count > mask { grow() }
        memory[(head + count) & mask] = Border(offset: offset, data: data)
        count += 1
    }

    /// Forgets borders at or before `offset`.
    mutating func removeThrough(_ offset: UInt64) {
        while count > 0, memory[head].offset <= offset {
            dataRemoved = memory[head].data
            head = (head + 1) & mask
            count -= 1
        }
    }

    /// The first border at or behind `offset`. Logarithmic.
    func first(from offset: UInt64) -> UInt64? {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if memory[(head + middle) & mask].offset < offset { low = middle + 1 } else { high = middle }
        }
        return low < count ? memory[(head + low) & mask].offset : nil
    }

    /// No border is after `end`, before which DATA frames have `dataEnd` bytes. (Some may be acknowledged already: an acknowledgment that
    /// overtakes the completion of its send leaves them until the next one.) A restored queue must be empty before.
    mutating func archive(_ archive: inout StateArchive, end: UInt64, dataEnd: UInt64) throws(StateFault) {
        try archive.number(&dataRemoved, in: 0...dataEnd)
        var previous = Border(offset: 0, data: dataRemoved)
        for index in 0..<(try archive.count(count, most: .max)) {
            var border = archive.isSaving ? memory[(head + index) & mask] : Border(offset: 0, data: 0)
            try archive.number(&border.offset, in: 0...end)
            try archive.number(&border.data, in: previous.data...dataEnd)
            guard previous.offset < border.offset, border.data - previous.data <= border.offset - previous.offset || index == 0 else {
                throw StateFault("borders do not increase")
            }
            previous = border
            if !archive.isSaving { append(border.offset, data: border.data) }
        }
    }

    private mutating func grow() {
        let larger = UnsafeMutablePointer<Border>.allocate(capacity: (mask + 1) * 2)
        for index in 0..<count { larger[index] = memory[(head + index) & mask] }
        memory.deallocate()
        memory = larger
        mask = mask * 2 + 1
        head = 0
    }
}
