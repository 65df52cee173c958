/// A FIFO of increasing session offsets: the frame borders that a replay may stop at to let an acknowledgment through.
struct OffsetQueue: ~Copyable {
    private var memory: UnsafeMutablePointer<UInt64>
    private var mask: Int
    private var head = 0
    private(set) var count = 0

    init() {
        memory = .allocate(capacity: 16)
        mask = 15
    }

    deinit { memory.deallocate() }

    var last: UInt64? { count == 0 ? nil : memory[(head + count - 1) & mask] }

    mutating func append(_ offset: UInt64) {
        assert(last.map { $0 < offset } ?? true, "offsets must increase")
        if count > mask { grow() }
        memory[(head + count) & mask] = offset
        count += 1
    }

    /// Forgets offsets ≤ `offset`.
    mutating func removeThrough(_ offset: UInt64) {
        while count > 0, memory[head] <= offset {
            head = (head + 1) & mask
            count -= 1
        }
    }

    /// The smallest offset ≥ `offset`. Logarithmic.
    func first(from offset: UInt64) -> UInt64? {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if memory[(head + middle) & mask] < offset { low = middle + 1 } else { high = middle }
        }
        return low < count ? memory[(head + low) & mask] : nil
    }

    private mutating func grow() {
        let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: (mask + 1) * 2)
        for index in 0..<count { larger[index] = memory[(head + index) & mask] }
        memory.deallocate()
        memory = larger
        mask = mask * 2 + 1
        head = 0
    }
}
