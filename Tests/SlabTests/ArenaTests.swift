import Chance
import CSlab
import Glibc
import Testing

struct ArenaTests {
    @Test func slabsAreAlignedDistinctAndAsManyAsPromised() throws {
        let arena = try Arena(bytes: (1 << 20) + 1)  // Rounded up to five slabs.
        var slabs: Set<UnsafeMutableRawPointer> = []
        while let slab = arena.slab() {
            #expect(UInt(bitPattern: slab) % UInt(slabBytes) == 0)
            #expect(arena.references(slab + slabBytes - 1) == 1)
            memset(slab, 0xA5, slabBytes)
            slabs.insert(slab)
        }
        #expect(slabs.count == 5)
        #expect(arena.used == 5 * slabBytes)
        #expect(arena.page() == nil)
        for slab in slabs { arena.release(slab) }
        #expect(arena.used == 0)
        #expect(arena.fault == nil)
    }

    @Test func pagesFillASlabAndGiveItBackWhole() throws {
        let arena = try Arena()
        let pages = arena.exhaust()
        #expect(Set(pages).count == (1 << 20) / pageBytes)
        #expect(arena.used == 1 << 20)
        #expect(arena.slab() == nil)
        #expect(arena.fault == nil)

        // One page kept in each slab keeps all of them divided.
        let slabs = Dictionary(grouping: pages) { UInt(bitPattern: $0) / UInt(slabBytes) }
        let kept = slabs.values.map { $0[17] }
        for page in pages where !kept.contains(page) { arena.release(page) }
        #expect(arena.slab() == nil)
        #expect(arena.used == 4 * pageBytes)
        #expect(arena.fault == nil)

        arena.release(kept[0])
        let slab = try #require(arena.slab())
        #expect(UInt(bitPattern: slab) / UInt(slabBytes) == UInt(bitPattern: kept[0]) / UInt(slabBytes))
        arena.release(slab)
        for page in kept.dropFirst() { arena.release(page) }
        #expect(arena.used == 0)
        #expect(arena.fault == nil)
    }

    @Test func aBlockLivesUntilItsLastReference() throws {
        let arena = try Arena()
        for block in [try #require(arena.slab()), try #require(arena.page())] {
            arena.retain(block + 1)
            arena.retain(block + pageBytes - 1)
            #expect(arena.references(block) == 3)
            arena.release(block + 5)
            arena.release(block)
            #expect(arena.references(block) == 1)
            #expect(arena.used > 0)
            #expect(arena.fault == nil)
        }
    }

    @Test func theWarmestBlockComesBackFirst() throws {
        let arena = try Arena()
        let first = try #require(arena.slab()), second = try #require(arena.slab())
        arena.release(first)
        arena.release(second)
        #expect(arena.slab() == second)
        #expect(arena.slab() == first)
        arena.release(first)
        let page = try #require(arena.page())
        #expect(page == first)
        arena.release(page)
        #expect(arena.page() == page)
    }

    @Test(arguments: [0, 1 << 20 - 1, (1 << 40) + 1]) func unreasonableSizesAreRefused(bytes: Int) {
        var created: OpaquePointer?
        #expect(arena_create(&created, bytes) == -EINVAL)
        #expect(created == nil)
    }

    @Test func theLargestArenaTouchesNothingUntilUsed() throws {
        let arena = try Arena(bytes: 64 << 30)
        #expect(arena.committed == 0)
        #expect(try fileBytes(of: arena) == 0)
        let page = try #require(arena.page())
        page.storeBytes(of: 1, as: UInt8.self)
        #expect(try fileBytes(of: arena) <= 4 * pageBytes)  // The byte, and a page of each table.
        arena.release(page)
        arena_trim(arena.pointer, 0)
        #expect(try fileBytes(of: arena) <= 3 * pageBytes)
    }

    @Test func trimKeepsWhatItIsToldAndWorksInBoundedSteps() throws {
        let arena = try Arena(bytes: 64 << 20), slabs = 200
        let taken = (0..<slabs).compactMap { _ in arena.slab() }
        #expect(taken.count == slabs)
        for slab in taken { memset(slab, 0xA5, slabBytes) }
        for slab in taken.dropFirst(2) { arena.release(slab) }
        #expect(arena.committed == slabs * slabBytes)
        #expect(try fileBytes(of: arena) >= slabs * slabBytes)

        arena_trim(arena.pointer, 0)
        #expect(arena.committed == (slabs - 16) * slabBytes)
        for _ in 0..<20 { arena_trim(arena.pointer, 3 * slabBytes) }
        #expect(arena.committed == 5 * slabBytes)  // Two in use and three to keep.
        #expect(try fileBytes(of: arena) <= 5 * slabBytes + 16 * pageBytes)
        #expect(arena.fault == nil)

        // What is in use has kept its bytes; what was trimmed can be had again.
        #expect(taken[1].load(fromByteOffset: slabBytes - 1, as: UInt8.self) == 0xA5)
        let again = (0..<slabs - 2).compactMap { _ in arena.slab() }
        #expect(again.count == slabs - 2)
        #expect(arena.committed == slabs * slabBytes)
        for slab in again + taken.prefix(2) { arena.release(slab) }
        #expect(arena.used == 0)
        #expect(arena.fault == nil)
    }

    @Test func theColdestSlabIsTrimmedFirst() throws {
        let arena = try Arena()
        let slabs = (0..<3).compactMap { _ in arena.slab() }
        for slab in slabs {
            slab.storeBytes(of: 0xA5, as: UInt8.self)
            arena.release(slab)
        }
        arena_trim(arena.pointer, slabBytes)
        let warmest = try #require(arena.slab())
        #expect(warmest == slabs[2])
        #expect(warmest.load(as: UInt8.self) == 0xA5)
        arena.release(warmest)
    }

    @Test(arguments: ChanceSetting.seeds(8)) func accountsHoldUnderRandomUse(seed: UInt64) throws {
        print("seed \(seed)")
        var chance = Chance(seed: seed)
        let arena = try Arena(bytes: 3 << 20)
        var held: [(bytes: UnsafeMutableRawPointer, count: Int)] = []
        var used = 0, refused = 0
        var owners: [UnsafeMutableRawPointer: Int] = [:]
        for step in 0..<4_000 {
            let growing = step / 500 % 2 == 0
            switch chance.below(growing ? 6 : 12) {
            case 0...3:
                let isSlab = chance.oneIn(40), count = isSlab ? slabBytes : pageBytes
                guard let bytes = isSlab ? arena.slab() : arena.page() else { refused += 1; continue }
                #expect(owners.updateValue(1, forKey: bytes) == nil)
                held.append((bytes, count))
                used += count
            case 4 where !held.isEmpty:
                let block = held[chance.below(held.count)]
                arena.retain(block.bytes + chance.below(block.count))
                owners[block.bytes, default: 0] += 1
                held.append(block)
            case 5 where chance.oneIn(10): arena_trim(arena.pointer, chance.within(0...1 << 20))
            default:
                guard !held.isEmpty else { continue }
                let block = held.remove(at: chance.below(held.count))
                arena.release(block.bytes + chance.below(block.count))
                owners[block.bytes, default: 0] -= 1
                if owners[block.bytes] == 0 {
                    owners[block.bytes] = nil
                    used -= block.count
                } else {
                    #expect(arena.references(block.bytes) == owners[block.bytes].map { UInt32($0) })
                }
            }
            #expect(arena.used == used)
            try #require(arena.fault == nil)
        }
        if seed == ChanceSetting.fixed { #expect(refused > 0) }  // Else the arena was too large for this.
        for block in held { arena.release(block.bytes) }
        #expect(arena.used == 0)
        #expect(arena.fault == nil)
    }

    /// What the kernel holds for the arena's file.
    private func fileBytes(of arena: Arena) throws -> Int {
        let descriptor = arena_descriptor(arena.pointer)
        try #require(descriptor >= 0)
        var status = stat()
        try #require(fstat(descriptor, &status) == 0)
        return Int(status.st_blocks) * 512
    }
}
