import Testing
@testable import Tunnel

/// Who goes next, told of streams that always have something to send.
@Suite struct SchedulerTests {
    /// One stream has all the credit it wants, the others stand at their limit after each turn and get new credit at
    /// once. A stream that was blocked is not sparse: it must not go before the bulk for ever.
    @Test func bulkIsNotStarvedByStreamsThatMeetTheirLimit() {
        var table = StreamTable()
        var scheduler = Scheduler()
        let slots = (0..<9 as Range<UInt64>).map { table.insert(stream($0)) }
        let bulk = slots[0]
        for slot in slots { scheduler.ready(slot, &table) }

        var sent = [StreamSlot: Int]()
        for _ in 0..<1000 {
            let slot = scheduler.nextData(&table)
            let turn = slot == bulk ? Int(table[slot].deficit) : min(Int(table[slot].deficit), 32 << 10)
            table[slot].deficit -= Int32(turn)
            sent[slot, default: 0] += turn
            if slot != bulk {
                scheduler.blocked(slot, &table)
                scheduler.ready(slot, &table)
            }
        }
        let total = sent.values.reduce(0, +)
        for slot in slots {
            #expect(sent[slot, default: 0] > total / slots.count / 4, "stream \(slot) got \(sent[slot, default: 0]) of \(total)")
        }
    }

    @Test func aStreamThatSendsLittleGoesBeforeTheBulk() {
        var table = StreamTable()
        var scheduler = Scheduler()
        let slots = (0..<4 as Range<UInt64>).map { table.insert(stream($0)) }
        for slot in slots.dropLast() { scheduler.ready(slot, &table) }
        for _ in 0..<3 {   // Each uses its quantum up and stands with the bulk.
            let slot = scheduler.nextData(&table)
            table[slot].deficit -= Scheduler.quantum
        }
        #expect(scheduler.nextData(&table) == slots[0])
        scheduler.ready(slots[3], &table)
        #expect(scheduler.nextData(&table) == slots[3])
        scheduler.ranDry(slots[3], &table)
        #expect(scheduler.nextData(&table) == slots[0])
    }

    private func stream(_ id: UInt64) -> Stream {
        Stream(id: id, owner: StreamOwner(id), send: SendHalf(limit: 0),
               receive: ReceiveHalf(initial: 0, now: Instant(nanoseconds: 0)))
    }
}
