import Testing
import Time
import Wire
@testable import Tunnel

/// Who goes next, told of streams that always have something to send.
@Suite struct SchedulerTests {
    /// One stream has all the credit it wants, the others stand at their limit after each turn and get new credit at
    /// once. A stream that was blocked is not sparse: it must not go before the bulk for ever.
    /// protocol 7.9
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

    /// protocol 7.9
    @Test func aStreamThatSendsLittleGoesBeforeTheBulk() {
        var table = StreamTable()
        var scheduler = Scheduler()
        let slots = (0..<4 as Range<UInt64>).map { table.insert(stream($0)) }
        for slot in slots.dropLast() { scheduler.ready(slot, &table) }
        for _ in 0..<3 {  // Each uses its quantum up and stands with the bulk.
            let slot = scheduler.nextData(&table)
            table[slot].deficit -= Scheduler.quantum
        }
        #expect(scheduler.nextData(&table) == slots[0])
        scheduler.ready(slots[3], &table)
        #expect(scheduler.nextData(&table) == slots[3])
        scheduler.ranDry(slots[3], &table)
        #expect(scheduler.nextData(&table) == slots[0])
    }

    /// A stream that had the carrier to itself sent a megabyte in one turn. Beside a thousand others that debt would cost it a
    /// second of standing still.
    @Test func whatWasSentAloneIsNoDebt() throws {
        let now = Instant(nanoseconds: 1)
        var endpoint = Endpoint(role: .server, limits: .init(retained: 64 << 20, received: 1 << 20, streams: 10), now: now)
        _ = try endpoint.accept(
            Hello(
                identity: SessionIdentity(high: 1, low: 1), attempt: 1, received: 0, replay: 0,
                earlyByteCount: 0, dataLimit: 1 << 40), now: now)
        let alone = try open(&endpoint, id: 0, now)
        let other = try open(&endpoint, id: 2, now)
        var header = [UInt8](repeating: 0, count: Endpoint.headerMaximum)
        func next() -> SequencedFrame? {
            header.withUnsafeMutableBytes { endpoint.nextFrame(into: $0, payloadMaximum: 1 << 20, now: now) }
        }
        endpoint.write(alone, 8 << 20)
        let first = try #require(next())
        #expect(first.payloadByteCount > Int(Scheduler.quantum))

        endpoint.write(other, 8 << 20)
        var before = 0
        while let frame = next(), frame.owner != 0 { before += frame.payloadByteCount }
        #expect(before <= 2 * Int(Scheduler.quantum), "\(before) bytes of the other went first")
    }

    private func open(_ endpoint: inout Endpoint, id: UInt64, _ now: Instant) throws -> StreamSlot {
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = bytes.withUnsafeMutableBytes { buffer in
            var writer = ByteWriter(buffer)
            writer.appendOpen(stream: id, target: 0, sendCredit: 0, receiveCredit: 1 << 40)
            return writer.count
        }
        var offset = 0
        let event = try bytes.withUnsafeBytes { try endpoint.receive($0.bytes.extracting(0..<count), at: &offset, now: now) }
        guard case .opened(let slot, _) = event else { throw ProtocolFault("not opened") }
        endpoint.adopt(slot, owner: StreamOwner(id))
        return slot
    }

    private func stream(_ id: UInt64) -> Stream {
        Stream(
            id: id, owner: StreamOwner(id), send: SendHalf(limit: 0),
            receive: ReceiveHalf(initial: 0, now: Instant(nanoseconds: 0)))
    }
}
