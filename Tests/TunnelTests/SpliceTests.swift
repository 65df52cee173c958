import Testing
import Time
import Wire
@testable import Tunnel

/// What goes past memory has the places, limits and acknowledgments of everything else. The simulator drives it among faults.
@Suite struct SpliceTests {
    private let server = ServerAtWork()
    private var header: UnsafeMutableRawBufferPointer { server.header }
    private var control: UnsafeMutableRawBufferPointer { server.control }
    private var now: Instant { server.now }

    /// protocol 5.2
    @Test func aSplicedFrameIsADataFrame() throws {
        var endpoint = try server.established(dataLimit: 1 << 20)
        let slot = try server.opened(&endpoint, credit: 10_000)
        #expect(endpoint.spliceRoom(slot) == 10_000)
        let (frame, batch) = endpoint.splice(slot, 7000, header: header, control: control, now: now)
        #expect(batch.rest == 0 && batch.more == frame.headerByteCount + 7000 && endpoint.sent == UInt64(batch.start) + UInt64(batch.more))
        let decoded = try #require(try decodeFrame(UnsafeRawBufferPointer(header).bytes))
        #expect(decoded.frame == .data(stream: 0, payloadByteCount: 7000) && decoded.byteCount == frame.headerByteCount)
        #expect(endpoint.spliceRoom == 0, "one send at a time")
        endpoint.batchSent(batch, batch.byteCount)
        #expect(endpoint.spliceRoom(slot) == 3000, "credit is used up by it")
        endpoint.checkInvariants()
    }

    @Test func nothingIsSplicedBeforeItsStreamsOwnBytes() throws {
        var endpoint = try server.established(dataLimit: 1 << 20)
        let slot = try server.opened(&endpoint, credit: 10_000)
        endpoint.write(slot, 5)
        #expect(endpoint.spliceRoom(slot) == 0 && endpoint.hasWaiting)
        _ = endpoint.nextFrame(into: header, payloadMaximum: 100, now: now)
        #expect(endpoint.nextFrame(into: header, payloadMaximum: 100, now: now) == nil)
        #expect(endpoint.spliceRoom == 0 && !endpoint.hasWaiting, "they have their place and have not left")
        let batch = endpoint.nextBatch(limit: 1000, control: control, now: now)
        endpoint.batchSent(batch, batch.byteCount)
        #expect(endpoint.spliceRoom(slot) == 9995)
        endpoint.finish(slot)
        #expect(endpoint.spliceRoom(slot) == 0, "nothing follows its end")
    }

    @Test func withoutACarrierNothingIsSpliced() throws {
        var endpoint = try server.established(dataLimit: 1 << 20)
        let slot = try server.opened(&endpoint, credit: 10_000)
        endpoint.carrierLost()
        #expect(endpoint.spliceRoom(slot) == 0)
    }

    /// protocol 7.2
    @Test func theSessionsCreditBindsItToo() throws {
        var endpoint = try server.established(dataLimit: 2000)
        let slot = try server.opened(&endpoint, credit: 10_000)
        #expect(endpoint.spliceRoom(slot) == 2000)
    }

    @Test func payloadThatWasPassedIsReceived() throws {
        var endpoint = try server.established(dataLimit: 1 << 20)
        let slot = try server.opened(&endpoint, credit: 10_000)
        var writer = ByteWriter(header)
        writer.appendDataHeader(stream: 0, payloadByteCount: 500)
        var offset = 0
        let before = endpoint.received
        #expect(try endpoint.receive(UnsafeRawBufferPointer(rebasing: header[..<writer.count]).bytes, at: &offset, now: now) == .incomplete)
        #expect(endpoint.payloadDue?.byteCount == 500 && endpoint.payloadDue?.owner == 9)
        endpoint.passed(200, now: now)
        #expect(endpoint.payloadDue?.byteCount == 300)
        endpoint.passed(300, now: now)
        #expect(endpoint.payloadDue == nil && endpoint.received == before + UInt64(writer.count) + 500)
        endpoint.consume(slot, 500, now: now)
        #expect(endpoint.unconsumedByteCount == 0)
        endpoint.checkInvariants()
    }

    /// Bytes of a stream that we reset are nobody's: they are read and dropped, not passed on.
    @Test func nobodysPayloadIsNotPassed() throws {
        var endpoint = try server.established(dataLimit: 1 << 20)
        let slot = try server.opened(&endpoint, credit: 10_000)
        var writer = ByteWriter(header)
        writer.appendDataHeader(stream: 0, payloadByteCount: 500)
        var offset = 0
        _ = try endpoint.receive(UnsafeRawBufferPointer(rebasing: header[..<writer.count]).bytes, at: &offset, now: now)
        endpoint.reset(slot, .reset, now: now)
        #expect(endpoint.payloadDue == nil)
    }
}
