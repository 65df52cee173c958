import CSlab
import Glibc
import Testing

/// An arena that ends with its last user, and says what is wrong with it.
final class Arena {
    let pointer: OpaquePointer

    init(bytes: Int = 1 << 20, isKept: Bool = false) throws {
        var created: OpaquePointer?
        try #require((isKept ? arena_create_kept(&created, bytes) : arena_create(&created, bytes)) == 0)
        pointer = try #require(created)
    }

    deinit { arena_destroy(pointer) }

    var used: Int { arena_used(pointer) }
    var committed: Int { arena_committed(pointer) }
    var fault: String? { arena_check(pointer).map { String(cString: $0) } }

    func slab() -> UnsafeMutableRawPointer? { arena_slab(pointer) }
    func page() -> UnsafeMutableRawPointer? { arena_page(pointer) }
    func retain(_ bytes: UnsafeRawPointer) { arena_retain(pointer, bytes) }
    func release(_ bytes: UnsafeRawPointer) { arena_release(pointer, bytes) }
    func references(_ bytes: UnsafeRawPointer) -> UInt32 { arena_references(pointer, bytes) }

    /// A slab filled with bytes that differ from those of other fills and tell their place.
    func filledSlab(_ salt: UInt8 = 0) throws -> UnsafeMutableRawPointer {
        let filled = try #require(slab())
        for place in 0..<slabBytes / 4 {
            filled.storeBytes(
                of: UInt32(place) &* 0x9E37_79B1 &+ UInt32(salt), toByteOffset: place * 4,
                as: UInt32.self)
        }
        return filled
    }

    /// Takes pages until there are none; the caller releases them.
    func exhaust() -> [UnsafeMutableRawPointer] {
        var pages: [UnsafeMutableRawPointer] = []
        while let page = self.page() { pages.append(page) }
        return pages
    }
}

let slabBytes = Int(SLAB_BYTES)
let pageBytes = Int(PAGE_BYTES)

/// A byte queue that clears itself.
final class Queue {
    var queue = byte_queue()
    let arena: Arena

    init(_ arena: Arena, at position: UInt64 = 0) {
        self.arena = arena
        queue_init(&queue, position)
    }

    deinit { queue_clear(&queue, arena.pointer) }

    var count: Int { queue_count(&queue) }
    var head: UInt64 { queue.head }
    var tail: UInt64 { queue.tail }
    var fault: String? { queue_check(&queue, arena.pointer).map { String(cString: $0) } }
    var ownsNothing: Bool { queue.pieces == nil && queue.capacity == 0 && queue.length == 0 }

    var pieces: [queue_piece] {
        (0..<queue.length).map { queue.pieces[Int((queue.first + $0) & (queue.capacity - 1))] }
    }

    /// All appends and moves: whether there was memory.
    func copy(_ bytes: [UInt8]) -> Bool {
        bytes.withUnsafeBytes { range in
            succeeded(queue_append_copy(&queue, arena.pointer, range.baseAddress, range.count))
        }
    }

    func refer(_ bytes: UnsafeMutableRawPointer, _ count: Int) -> Bool {
        succeeded(queue_append_block(&queue, arena.pointer, bytes, count))
    }

    func move(_ count: Int, to other: Queue, copyBelow: Int) -> Bool {
        succeeded(queue_move(&other.queue, &queue, arena.pointer, count, copyBelow))
    }

    private func succeeded(_ result: Int32) -> Bool {
        if result != 0 && result != -ENOMEM { Issue.record("an append returned \(result)") }
        return result == 0
    }

    func release(_ count: Int) { queue_release(&queue, arena.pointer, queue.head &+ UInt64(count)) }
    func clear() { queue_clear(&queue, arena.pointer) }

    /// The ranges from `offset` bytes behind the head.
    func gather(_ offset: Int = 0, limit: Int = .max, iovecs maximum: Int = 64) -> [UnsafeRawBufferPointer] {
        var gathered = -1
        let vectors = [iovec](unsafeUninitializedCapacity: maximum) { memory, count in
            count = Int(
                queue_gather(
                    &queue, queue.head &+ UInt64(offset), limit, memory.baseAddress,
                    UInt32(maximum), &gathered))
        }
        #expect(gathered == vectors.reduce(0) { $0 + $1.iov_len })
        return vectors.map { UnsafeRawBufferPointer(start: $0.iov_base, count: $0.iov_len) }
    }

    var contents: [UInt8] {
        var bytes: [UInt8] = []
        for range in gather(iovecs: Int(queue.length) + 1) { bytes.append(contentsOf: range) }
        return bytes
    }
}

/// `count` bytes that tell their place.
func pattern(_ count: Int, from first: Int = 0) -> [UInt8] {
    (first..<first + count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
}
