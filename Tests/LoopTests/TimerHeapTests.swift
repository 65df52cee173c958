import Testing
@testable import Loop

@Suite struct TimerHeapTests {
    private func token(_ index: UInt32) -> Token { Token(kind: 1, index: index, generation: 0) }

    @Test func aTokenComesUpOnceAtItsLastDeadline() {
        var timers = TimerHeap()
        for deadline in [50, 10, 30] as [UInt64] { timers.set(token(1), at: deadline) }
        #expect(timers.count == 1)
        #expect(timers.takeExpired(now: 29) == nil)
        #expect(timers.takeExpired(now: 30) == token(1))
        #expect(timers.takeExpired(now: 1000) == nil)
    }

    @Test func aCancelledTokenDoesNotComeUp() {
        var timers = TimerHeap()
        for index in 0..<10 as Range<UInt32> { timers.set(token(index), at: UInt64(index)) }
        timers.cancel(token(3))
        timers.cancel(token(3))
        timers.cancel(token(99))
        var taken: [UInt32] = []
        while let next = timers.takeExpired(now: 100) { taken.append(next.index) }
        #expect(taken == [0, 1, 2, 4, 5, 6, 7, 8, 9])
        #expect(timers.nextDeadline == nil)
    }

    /// A reconnect loop for hours: the heap stays as small as what it is for.
    @Test func settingAgainAndAgainKeepsTheHeapFlat() {
        var timers = TimerHeap()
        for turn in 0..<100_000 as Range<UInt64> { timers.set(token(UInt32(turn % 7)), at: 1_000_000 + turn) }
        #expect(timers.count == 7)
    }

    @Test(arguments: [1, 2, 3] as [UInt64]) func itComesUpInOrderAsASortedListWould(seed: UInt64) {
        var state = seed
        func next(_ bound: UInt64) -> UInt64 {
            state = state &* 6364136223846793005 &+ 1442695040888963407
            return (state >> 33) % bound
        }
        var timers = TimerHeap()
        var model: [UInt32: UInt64] = [:]
        for turn in 0..<20_000 {
            let index = UInt32(next(200))
            switch next(3) {
            case 0:
                timers.cancel(token(index))
                model[index] = nil
            default:
                let deadline = next(10_000)
                timers.set(token(index), at: deadline)
                model[index] = deadline
            }
            #expect(timers.nextDeadline == model.values.min(), "seed \(seed), turn \(turn)")
        }
        var last: UInt64 = 0
        while let token = timers.takeExpired(now: .max) {
            let deadline = model.removeValue(forKey: token.index)
            #expect(deadline != nil && deadline! >= last)
            last = deadline ?? last
        }
        #expect(model.isEmpty)
    }
}
