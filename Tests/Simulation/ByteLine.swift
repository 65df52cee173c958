/// Bytes in a row: appended at the end, taken from the front, always contiguous.
struct ByteLine: ~Copyable {
    private var memory: UnsafeMutableRawPointer
    private var capacity: Int
    private var start = 0
    private(set) var count = 0

    init() {
        capacity = 256
        memory = .allocate(byteCount: capacity, alignment: 16)
    }

    deinit { memory.deallocate() }

    var bytes: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: memory + start, count: count)
    }

    mutating func append(_ source: UnsafeRawBufferPointer) {
        guard let base = source.baseAddress, source.count > 0 else { return }
        reserve(source.count)
        (memory + start + count).copyMemory(from: base, byteCount: source.count)
        count += source.count
    }

    mutating func removeFirst(_ number: Int) {
        precondition(number <= count, "took more bytes than there are")
        count -= number
        start = count == 0 ? 0 : start + number
    }

    mutating func removeAll() {
        count = 0
        start = 0
    }

    private mutating func reserve(_ more: Int) {
        guard start + count + more > capacity else { return }
        if count + more <= capacity / 2 {
            memory.copyMemory(from: memory + start, byteCount: count)
        } else {
            while capacity < 2 * (count + more) { capacity *= 2 }
            let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
            larger.copyMemory(from: memory + start, byteCount: count)
            memory.deallocate()
            memory = larger
        }
        start = 0
    }
}
