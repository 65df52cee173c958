import Testing
import Time
import Wire
@testable import Tunnel

/// Two endpoints and a wire that loses nothing; payload is only counted.
private struct Pair: ~Copyable {
    static let budget = 8 << 20
    var client = Endpoint(role: .client, limits: .init(retained: 64 << 20, received: Pair.budget, streams: 100_000), now: Pair.at(0))
    var server = Endpoint(role: .server, limits: .init(retained: 64 << 20, received: Pair.budget, streams: 100_000), now: Pair.at(0))
    private(set) var now: UInt64 = 0
    /// By stream: what arrived at the client and was not consumed; the server's slot, by the client's owner.
    var held: [StreamOwner: Int] = [:]
    var ended: Set<StreamOwner> = []
    var slots: [StreamSlot] = []
    private var sentByClient = ByteCounter(), sentByServer = ByteCounter()

    /// The bytes of one direction that have their place: headers as they are, payload as zeros.
    struct ByteCounter { var bytes: [UInt8] = []; var start: UInt64 = 0 }

    static func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (1_000 + milliseconds) * 1_000_000) }
    var instant: Instant { Pair.at(now) }

    init() throws {
        let (offer, limit) = client.offer(earlyMaximum: 0)
        let hello = Hello(identity: .none, attempt: 1, received: 0, replay: 0, earlyByteCount: 0, dataLimit: limit)
        let answer = try #require(try server.accept(hello, now: instant))
        try client.resume(
            offer,
            Welcome(
                identity: SessionIdentity(high: 1, low: 1), secret: .zero, attempt: 1, epoch: 1, received: answer.received,
                dataLimit: answer.dataLimit, maximumStreams: 100_000, initialCredit: 1 << 18), now: instant)
        client.greetingSent()
        server.greetingSent()
    }

    /// One round trip.
    mutating func exchange() throws {
        now += 20
        try Pair.move(&client, &sentByClient, to: &server, instant) { event, endpoint in
            if case .opened(let slot, _) = event {
                endpoint.adopt(slot, owner: StreamOwner(slots.count))
                slots.append(slot)
            }
        }
        try Pair.move(&server, &sentByServer, to: &client, instant) { event, _ in
            if case .payload(let owner, let range) = event { held[owner, default: 0] += range.count }
            if case .finished(let owner) = event { ended.insert(owner) }
        }
    }

    private static func move(
        _ sender: inout Endpoint, _ line: inout ByteCounter, to receiver: inout Endpoint, _ now: Instant,
        _ act: (Received, inout Endpoint) -> Void
    ) throws {
        let header = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.headerMaximum, alignment: 8)
        let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
        defer { header.deallocate(); control.deallocate() }
        _ = sender.handleTimeout(now: now)
        while sender.unsentByteCount < 4 << 20, let frame = sender.nextFrame(into: header, payloadMaximum: 1 << 20, now: now) {
            line.bytes += header[..<frame.headerByteCount]
            line.bytes += [UInt8](repeating: 0, count: frame.payloadByteCount)
        }
        while sender.wantsBatch(now: now) {
            let batch = sender.nextBatch(limit: 1 << 20, control: control, now: now)
            let from = Int(batch.start - line.start)
            let wire =
                Array(line.bytes[from..<(from + batch.rest)]) + control[batch.control]
                + Array(line.bytes[(from + batch.rest)..<(from + batch.rest + batch.more)])
            sender.batchSent(batch, batch.byteCount)
            var offset = 0
            while true {
                let event = try receiver.receive(wire.span.bytes, at: &offset, now: now)
                if case .incomplete = event { break }
                act(event, &receiver)
            }
            receiver.heard(now: now)
            #expect(offset == wire.count)
        }
        let released = Int(sender.acknowledged - line.start)
        line.bytes.removeFirst(released)
        line.start += UInt64(released)
    }
}

@Suite struct StoppedReadersTests {
    /// However many streams stand still because nobody reads them, the next one moves; and a FIN passes all of them.
    /// protocol 7.6
    @Test(arguments: [3, 100, 3000]) func theNextStreamMoves(stopped: Int) throws {
        var pair = try Pair()
        var readers: [StreamSlot] = []
        for index in 0...stopped {
            readers.append(pair.client.open(owner: StreamOwner(index), target: 0, now: pair.instant))
            if index % 50 == 0 {
                try pair.exchange()
                // They read for a while, and stop.
                for index in readers.indices.dropLast() {
                    let count = min(pair.held[StreamOwner(index)] ?? 0, 4096)
                    if count > 0 { pair.client.consume(readers[index], count, now: pair.instant) }
                    pair.held[StreamOwner(index), default: 0] -= count
                }
            }
        }
        try pair.exchange()
        try #require(pair.slots.count == stopped + 1)
        for slot in pair.slots { pair.server.write(slot, 4 << 20) }
        for _ in 0..<20 { try pair.exchange() }

        let last = StreamOwner(stopped)
        var taken = 0
        for _ in 0..<50 {
            let count = pair.held[last] ?? 0
            if count > 0 { pair.client.consume(readers[stopped], count, room: 64 << 10, now: pair.instant) }
            pair.held[last] = 0
            taken += count
            try pair.exchange()
        }
        #expect(taken >= 49 * 32 << 10, "\(taken) bytes in 50 round trips")
        #expect(pair.client.unconsumedByteCount <= Pair.budget + (stopped + 1) * Int(Endpoint.creditFloor) + 64 << 10)

        let finished = pair.client.open(owner: 1_000_000, target: 0, now: pair.instant)
        try pair.exchange()
        pair.server.finish(pair.slots[stopped + 1])
        try pair.exchange()
        #expect(pair.ended.contains(1_000_000))
        _ = finished
    }
}
