import Testing
import Time
import Wire
@testable import Tunnel

/// A server's endpoint whose peer has used the session's credit up.
@Suite struct SessionCreditTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (9_000 + milliseconds) * 1_000_000) }

    /// The user takes a little, far less than a quarter of the budget: the peer, which stands at the limit, hears of it within
    /// 20 ms and not with the next PING only.
    /// protocol 7.7
    @Test func aBlockedPeerHearsOfALittleRoom() throws {
        let budget = 256 << 10
        var endpoint = Endpoint(role: .server, limits: .init(retained: 1 << 20, received: budget, streams: 10), now: at(0))
        let hello = Hello(
            identity: SessionIdentity(high: 1, low: 1), attempt: 1, received: 0, replay: 0, earlyByteCount: 0,
            dataLimit: 1 << 20)
        _ = try endpoint.accept(hello, now: at(0))
        endpoint.greetingSent()
        let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
        defer { control.deallocate() }
        func settle(_ now: Instant) {
            while endpoint.wantsBatch(now: now) {
                let batch = endpoint.nextBatch(limit: 1 << 20, control: control, now: now)
                endpoint.batchSent(batch, batch.byteCount)
            }
        }
        settle(at(0))

        var slot: StreamSlot?
        for event in try feed(&endpoint, opened(budget), at(1)) {
            if case .opened(let opened, _) = event { slot = opened }
        }
        let stream = try #require(slot)
        _ = try feed(&endpoint, [UInt8](repeating: 1, count: budget), at(2))
        settle(at(30))
        #expect(endpoint.unconsumedByteCount == budget)
        #expect(endpoint.wantsBatch(now: at(40)) == false)

        endpoint.consume(stream, 1000, now: at(40))
        #expect(endpoint.nextTimeout <= at(60))
        #expect(endpoint.wantsBatch(now: at(60)) == true)
    }

    /// OPEN with all the credit there may be, and the header of one DATA frame of `count` bytes.
    private func opened(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 64)
        let written = bytes.withUnsafeMutableBytes { buffer in
            var writer = ByteWriter(buffer)
            writer.appendOpen(stream: 0, target: 0, sendCredit: Specification.initialCreditMaximum, receiveCredit: 1 << 20)
            writer.appendDataHeader(stream: 0, payloadByteCount: count)
            return writer.count
        }
        return Array(bytes[..<written])
    }

    private func feed(_ endpoint: inout Endpoint, _ bytes: [UInt8], _ now: Instant) throws -> [Received] {
        var events: [Received] = []
        try bytes.withUnsafeBytes { buffer in
            var offset = 0
            while true {
                let event = try endpoint.receive(buffer.bytes, at: &offset, now: now)
                if case .incomplete = event { break }
                if case .opened(let slot, _) = event { endpoint.adopt(slot, owner: 7) }
                events.append(event)
            }
        }
        endpoint.heard(now: now)
        return events
    }
}
