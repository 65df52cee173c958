import Testing
import Time
@testable import Tunnel

@Suite struct StreamTableTests {
    private func stream(_ id: UInt64) -> Stream {
        Stream(
            id: id, owner: StreamOwner(truncatingIfNeeded: id), send: SendHalf(limit: 0),
            receive: ReceiveHalf(initial: 0, now: Instant(nanoseconds: 0)))
    }

    /// Against a dictionary: whatever is inserted and removed, each identifier is found where it lies.
    @Test(arguments: [1, 2, 3] as [UInt64]) func theTableFindsWhatADictionaryFinds(seed: UInt64) {
        var state = seed
        func next(_ bound: UInt64) -> UInt64 {
            state = state &* 6364136223846793005 &+ 1442695040888963407
            return (state >> 33) % bound
        }
        var table = StreamTable()
        var model: [UInt64: StreamSlot] = [:]
        for _ in 0..<20_000 {
            let id = next(600)
            if let slot = model.removeValue(forKey: id) {
                #expect(table.find(id) == slot)
                table.remove(slot)
            } else {
                model[id] = table.insert(stream(id))
            }
            #expect(table.count == model.count)
        }
        for id in 0..<600 as Range<UInt64> { #expect(table.find(id) == model[id], "seed \(seed), stream \(id)") }
        for (id, slot) in model { #expect(table[slot].id == id) }
    }
}

@Suite struct CreditWindowTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: milliseconds * 1_000_000) }

    /// protocol 7.5
    @Test func creditIsToldAtHalfAWindow() {
        var window = CreditWindow(initial: 64 << 10, now: at(0))
        #expect(window.consumed(to: 31 << 10, ceiling: 1 << 20, roundTrip: .milliseconds(1), now: at(100)) == false)
        #expect(window.consumed(to: 32 << 10, ceiling: 1 << 20, roundTrip: .milliseconds(1), now: at(100)) == true)
        #expect(window.tell() == 96 << 10)
    }

    /// protocol 7.5
    @Test func aFastUserGetsALargerWindowUpToTheCeiling() {
        var window = CreditWindow(initial: 64 << 10, now: at(0))
        var consumed: UInt64 = 0
        for _ in 0..<1000 {
            consumed += 32 << 10
            if window.consumed(to: consumed, ceiling: 1 << 20, roundTrip: .milliseconds(100), now: at(1)) { _ = window.tell() }
        }
        #expect(window.size == 1 << 20)
    }

    /// News of credit may be lost several times in a row: until it comes, the sender has what there is room for.
    /// protocol 7.5
    @Test func onAFarPathAFastUserGetsAllThatThereIsRoomFor() {
        var window = CreditWindow(initial: 64 << 10, now: at(0))
        let isTold = window.consumed(to: 32 << 10, ceiling: 8 << 20, roundTrip: .milliseconds(600), now: at(700))
        let limit = window.tell()
        #expect(isTold && window.size == 8 << 20 && limit == (32 << 10) + (8 << 20))
        var slow = CreditWindow(initial: 64 << 10, now: at(0))
        let isToldToo = slow.consumed(to: 32 << 10, ceiling: 8 << 20, roundTrip: .milliseconds(600), now: at(1300))
        #expect(isToldToo && slow.size == 64 << 10)
    }

    /// protocol 7.5
    @Test func aSlowUserKeepsASmallWindow() {
        var window = CreditWindow(initial: 64 << 10, now: at(0))
        for step in 1...100 as ClosedRange<UInt64> {
            if window.consumed(to: step * (32 << 10), ceiling: 1 << 20, roundTrip: .milliseconds(1), now: at(step * 1000)) {
                _ = window.tell()
            }
        }
        #expect(window.size == 64 << 10)
    }

    /// A peer that finds identifiers which collide under one seed finds none that collide under another.
    /// protocol 12.6
    @Test func identifiersThatCollideUnderOneSeedDoNotUnderAnother() {
        let known = StreamTable(hashSeed: 0)
        var colliding: [UInt64] = []
        var id: UInt64 = 0
        while colliding.count < 64 {
            if known.home(id, mask: 0xfff) == 7 { colliding.append(id) }
            id += 2
        }
        for seed in [1, 0x9e37_79b9_7f4a_7c15, 0xdead_beef_0bad_f00d, .max] as [UInt64] {
            let other = StreamTable(hashSeed: seed)
            let homes = Set(colliding.map { other.home($0, mask: 0xfff) })
            #expect(homes.count > 56, "seed \(seed): \(homes.count) places for 64 identifiers")
        }
    }
}
