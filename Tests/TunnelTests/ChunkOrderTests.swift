import Testing
import Time
import Wire
@testable import Tunnel

/// Bytes that come over several connections are read in the order in which they were sent.
@Suite struct ChunkOrderTests {
    private let server = ServerAtWork()
    private var header: UnsafeMutableRawBufferPointer { server.header }
    private var control: UnsafeMutableRawBufferPointer { server.control }
    private var now: Instant { server.now }

    /// protocol 4.29
    @Test func aChunkWaitsForThoseBefore() throws {
        var order = ChunkOrder()
        var late = try order.begin(ChunkHeader(offset: 100, byteCount: 50))
        var first = try order.begin(ChunkHeader(offset: 0, byteCount: 100))
        #expect(order.isDue(first) && !order.isDue(late) && !order.isPast(late))
        #expect(!order.read(60, of: &first))
        #expect(order.isDue(first) && !order.isDue(late), "the rest of it is due")
        #expect(order.read(40, of: &first))
        #expect(order.isDue(late) && order.next == 100)
        #expect(order.read(50, of: &late))
        #expect(order.next == 150)
    }

    /// protocol 4.29
    @Test func nothingIsReadTwice() throws {
        var order = ChunkOrder()
        var one = try order.begin(ChunkHeader(offset: 0, byteCount: 10))
        let other = try order.begin(ChunkHeader(offset: 5, byteCount: 10))
        let twin = try order.begin(ChunkHeader(offset: 0, byteCount: 10))
        #expect(order.read(10, of: &one))
        #expect(order.isPast(other) && order.isPast(twin))
        #expect(throws: ProtocolFault("a chunk repeats what was sent before")) { try order.begin(ChunkHeader(offset: 9, byteCount: 1)) }
    }

    /// protocol 3.10, 4.29: SUBFLOWS is the last that a carrier's own connection brings.
    @Test func subflowsIsTheLastOfItsBatch() throws {
        var endpoint = try server.established(dataLimit: 1 << 20)
        let slot = try server.opened(&endpoint, credit: 10_000)
        endpoint.write(slot, 5000)
        _ = endpoint.nextFrame(into: header, payloadMaximum: 3000, now: now)
        var batch = endpoint.nextBatch(limit: 1000, control: control, now: now)
        endpoint.batchSent(batch, batch.byteCount)
        #expect(endpoint.isSpread == false)
        // In the middle of a frame: the rest of it goes first.
        endpoint.spread()
        _ = endpoint.nextFrame(into: header, payloadMaximum: 2000, now: now)
        let wants = endpoint.wantsBatch(now: now)
        #expect(wants)
        batch = endpoint.nextBatch(limit: 100_000, control: control, now: now)
        #expect(batch.rest > 0 && batch.more == 0 && batch.control.count > 0)
        let frames = control[batch.control]
        #expect(Array(frames.suffix(2)) == [FrameType.subflows, 0])
        endpoint.batchSent(batch, batch.byteCount - 1)
        #expect(endpoint.isSpread == false, "its last byte has not left")
        batch = endpoint.nextBatch(limit: 100_000, control: control, now: now)
        #expect(batch.byteCount == 1)
        endpoint.batchSent(batch, 1)
        #expect(endpoint.isSpread == true)
        endpoint.write(slot, 3000)
        _ = endpoint.nextFrame(into: header, payloadMaximum: 3000, now: now)
        batch = endpoint.nextBatch(limit: 100_000, control: control, now: now)
        #expect(batch.more > 2000, "what follows goes in chunks, as it would have gone")
    }

    /// protocol 4.30: the next carrier begins with a connection of its own.
    @Test func anotherCarrierHasNone() throws {
        var endpoint = try server.established(dataLimit: 1 << 20)
        endpoint.spread()
        let batch = endpoint.nextBatch(limit: 1000, control: control, now: now)
        endpoint.batchSent(batch, batch.byteCount)
        #expect(endpoint.isSpread == true)
        endpoint.carrierLost()
        #expect(endpoint.isSpread == false)
    }
}
