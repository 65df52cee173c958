import Chance
import CSlab
import Glibc
import Testing

/// What a successor finds: the last commit, whatever was done after it.
struct KeptTests {
    @Test(arguments: ChanceSetting.seeds(8)) func aDeathLeavesTheLastCommit(seed: UInt64) throws {
        print("seed \(seed)")
        var model = try KeptModel(seed: seed)
        for _ in 0..<400 {
            model.work()
            model.commit()
            model.work()
            try model.judge()
        }
        try model.end()
    }

    @Test func recordsChangeTogether() throws {
        let arena = try Arena(isKept: true)
        let (first, second) = (record_take(arena.pointer), record_take(arena.pointer))
        #expect(first != 0 && second != 0 && first != second)
        put(arena, first, [1, 2, 3])
        #expect(try #require(Remains(arena)).record(first) == nil, "nothing was committed")
        put(arena, second, [4])
        #expect(records_commit(arena.pointer, 7) == 0)
        put(arena, first, [9, 9])
        record_drop(arena.pointer, second)
        var remains = try #require(Remains(arena))
        #expect(remains.record(first) == [1, 2, 3] && remains.record(second) == [4])
        #expect(remains.mark == 7)
        #expect(records_commit(arena.pointer, 8) == 0)
        remains = try #require(Remains(arena))
        #expect(remains.record(first) == [9, 9] && remains.record(second) == nil && remains.mark == 8)
        // The number is free again after the commit that dropped it.
        #expect(record_take(arena.pointer) == second)
    }

    /// A number that was dropped is not taken again before that is committed: its record is still the last commit's.
    @Test func numbersAreTakenAgainAfterTheCommit() throws {
        let arena = try Arena(isKept: true)
        let number = record_take(arena.pointer)
        put(arena, number, [1])
        _ = records_commit(arena.pointer, 1)
        record_drop(arena.pointer, number)
        #expect(record_take(arena.pointer) != number)
    }

    /// Whatever the memory of the dead holds, it is read without a trap, and within its bounds.
    @Test(arguments: ChanceSetting.seeds(4)) func spoiledMemoryIsReadWithoutATrap(seed: UInt64) throws {
        print("seed \(seed)")
        var model = try KeptModel(seed: seed)
        for _ in 0..<30 {
            model.work()
            model.commit()
        }
        var chance = Chance(seed: seed &+ 1)
        var size = 0
        let mapping = UnsafeMutableRawPointer(mutating: arena_mapping(model.arena.pointer, &size)!)
        let used = kept_used(model.arena.pointer)
        // Most of what decides lies in the kept area and behind it.
        let area = size - (256 << 20) - (1 << 20) / 4
        var refused = 0
        for _ in 0..<3000 {
            let place = chance.oneIn(4) ? size - 8 * (1 + chance.below(20)) : min(size - 8, (area + chance.below(used)) & ~7)
            let before = mapping.load(fromByteOffset: place, as: UInt64.self)
            mapping.storeBytes(of: chance.oneIn(2) ? chance.next() : before ^ 1 << UInt64(chance.below(64)), toByteOffset: place, as: UInt64.self)
            if let remains = Remains(model.arena) { model.readAll(remains) } else { refused += 1 }
            mapping.storeBytes(of: before, toByteOffset: place, as: UInt64.self)
        }
        #expect(refused > 50)
        try model.end()
    }
}

private func put(_ arena: Arena, _ record: UInt32, _ bytes: [UInt8]) {
    bytes.withUnsafeBytes { record_put(arena.pointer, record, $0.baseAddress, $0.count) }
}

/// As a successor reads it, in the process that is not dead.
private final class Remains {
    let pointer: OpaquePointer

    init?(_ arena: Arena) {
        var (opened, size): (OpaquePointer?, Int) = (nil, 0)
        let mapping = arena_mapping(arena.pointer, &size)
        guard remains_open(&opened, mapping, size) == 0, let opened else { return nil }
        pointer = opened
    }

    deinit { remains_close(pointer) }

    func record(_ number: UInt32) -> [UInt8]? {
        var count = 0
        guard let start = remains_record(pointer, number, &count) else { return nil }
        return Array(UnsafeRawBufferPointer(start: start, count: count))
    }

    var mark: UInt64? { record(0).map { $0.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) } } }

    func contents(_ record: UInt32) -> [UInt8]? {
        guard let bytes = self.record(record), bytes.count == MemoryLayout<queue_words>.size else { return nil }
        var words = bytes.withUnsafeBytes { $0.loadUnaligned(as: queue_words.self) }
        guard let count = Int(exactly: words.tail &- words.head), count <= 1 << 22 else { return nil }
        var contents = [UInt8](repeating: 0, count: count)
        return remains_copy_queue(pointer, &words, &contents, nil, nil) == 0 ? contents : nil
    }
}

/// Queues over one kept arena, each with a record.
private struct KeptModel {
    let arena: Arena
    let queues: [Queue]
    let records: [UInt32]
    var chance: Chance
    var committed: [[UInt8]]
    var salt = 0

    init(seed: UInt64) throws {
        arena = try Arena(bytes: 8 << 20, isKept: true)
        let arena = arena
        queues = [0, 1 << 32 - 9, 5].map { Queue(arena, at: $0) }
        records = queues.map { _ in record_take(arena.pointer) }
        committed = queues.map { _ in [] }
        chance = Chance(seed: seed)
    }

    /// Some of what an iteration does.
    mutating func work() {
        for _ in 0..<chance.below(12) {
            let queue = chance.pick(queues), other = chance.pick(queues)
            salt &+= 1
            switch chance.below(5) {
            case 0: _ = queue.copy(pattern(1 + chance.skewed(3000), from: salt))
            case 1: _ = queue.copy(pattern(1 + chance.skewed(90_000), from: salt))
            case 2:
                guard let slab = arena.slab() else { continue }
                let bytes = pattern(1 + chance.below(5000), from: salt)
                bytes.withUnsafeBytes { slab.copyMemory(from: $0.baseAddress!, byteCount: bytes.count) }
                _ = queue.refer(slab, bytes.count)
                arena.release(slab)
            case 3 where queue !== other: _ = queue.move(chance.below(queue.count + 1), to: other, copyBelow: chance.pick([0, 2000]))
            default: queue.release(chance.oneIn(3) ? queue.count : chance.below(queue.count + 1))
            }
        }
    }

    mutating func commit() {
        for (index, queue) in queues.enumerated() {
            var words = queue_describe(&queue.queue)
            withUnsafeBytes(of: &words) { record_put(arena.pointer, records[index], $0.baseAddress, $0.count) }
            committed[index] = queue.contents
        }
        #expect(records_commit(arena.pointer, 1) == 0)
    }

    func judge() throws {
        let remains = try #require(Remains(arena))
        for (index, record) in records.enumerated() {
            try #require(remains.contents(record) == committed[index], "queue \(index) is not that of the last commit")
        }
    }

    func readAll(_ remains: Remains) { for record in 0..<min(1000, remains_count(remains.pointer)) { _ = remains.contents(record) } }

    mutating func end() throws {
        for queue in queues { queue.clear() }
        commit()
        #expect(arena.used == 0 && arena.fault == nil)
    }
}
