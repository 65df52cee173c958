import Testing
import Time
import Wire
@testable import Tunnel

/// A hundred thousand streams in one session; a process has descriptors for fewer in most places.
@Suite struct CrowdTests {
    /// A client's are even.
    private static let streams = stride(from: UInt64(0), to: 200_000, by: 2)
    private static let count = 100_000

    /// protocol 6.4, 6.6
    @Test func aHundredThousandStreamsComeAnswerAndGo() throws {
        let now = Instant(nanoseconds: 1_000_000_000)
        var endpoint = Endpoint(role: .server, limits: .init(retained: 64 << 20, received: 64 << 20, streams: CrowdTests.count), now: now)
        _ = try endpoint.accept(
            Hello(
                identity: SessionIdentity(high: 1, low: 1), attempt: 1, received: 0, replay: 0, earlyByteCount: 0,
                dataLimit: 64 << 20), now: now)
        endpoint.greetingSent()
        let total = CrowdTests.count
        var slots: [StreamSlot] = []
        for stream in CrowdTests.streams {
            try feed(&endpoint, now) { writer in
                writer.appendOpen(stream: stream, target: 0, sendCredit: 4096, receiveCredit: 4096)
                writer.appendDataHeader(stream: stream, payloadByteCount: 1)
                writer.append(UInt8(truncatingIfNeeded: stream))
            } on: { event, endpoint in
                guard case .opened(let slot, _) = event else { return }
                endpoint.adopt(slot, owner: StreamOwner(slots.count))
                slots.append(slot)
            }
        }
        let open = endpoint.streamCount
        #expect(open == total)

        // Each is answered with a byte and an end, in turn, and takes what came.
        for slot in slots {
            endpoint.consume(slot, 1, now: now)
            endpoint.write(slot, 1)
            endpoint.finish(slot)
        }
        let header = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.headerMaximum, alignment: 8)
        defer { header.deallocate() }
        let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
        defer { control.deallocate() }
        var answered = Set<StreamOwner>()
        var acknowledged: UInt64 = 0
        repeat {
            // Control frames go until some of them must be acknowledged.
            while let frame = endpoint.nextFrame(into: header, payloadMaximum: 1 << 20, now: now) {
                guard frame.payloadByteCount > 0 else { continue }
                #expect(frame.payloadByteCount == 1)
                answered.insert(frame.owner)
            }
            while endpoint.wantsBatch(now: now) {
                let batch = endpoint.nextBatch(limit: 1 << 20, control: control, now: now)
                endpoint.batchSent(batch, batch.byteCount)
            }
            guard endpoint.sent > acknowledged else { break }
            acknowledged = endpoint.sent
            try feed(&endpoint, now) {
                $0.appendAcknowledgment(offset: acknowledged, dataLimit: 64 << 20)
            } on: { _, _ in
            }
        } while true
        #expect(answered.count == slots.count)

        var ended = 0
        for stream in CrowdTests.streams {
            try feed(&endpoint, now) {
                $0.appendFin(stream: stream, finalSize: 1)
            } on: { event, endpoint in
                guard case .finished(let owner) = event else { return }
                if endpoint.drain(slots[Int(owner)]) { ended += 1 }
            }
        }
        #expect(ended == slots.count)
        let left = endpoint.streamCount
        #expect(left == 0)
        endpoint.checkInvariants()
    }

    private func feed(
        _ endpoint: inout Endpoint, _ now: Instant, _ write: (inout ByteWriter) -> Void,
        on event: (Received, inout Endpoint) -> Void
    ) throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128, alignment: 1)
        defer { buffer.deallocate() }
        var writer = ByteWriter(buffer)
        write(&writer)
        let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<writer.count])
        var offset = 0
        while true {
            let received = try endpoint.receive(bytes.bytes, at: &offset, now: now)
            if case .incomplete = received { break }
            event(received, &endpoint)
        }
        #expect(offset == bytes.count)
    }
}
