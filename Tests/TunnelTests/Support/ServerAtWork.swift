import Testing
import Time
import Wire
@testable import Tunnel

/// The endpoint of a server whose client has a carrier, and the memory that its owner would give it.
final class ServerAtWork {
    let header = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 8)
    let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
    let now = Instant(nanoseconds: 1_000_000_000)

    deinit {
        header.deallocate()
        control.deallocate()
    }

    func established(dataLimit: UInt64) throws -> Endpoint {
        var endpoint = Endpoint(role: .server, limits: .init(retained: 1 << 20, received: 1 << 20, streams: 8), now: now)
        let hello = Hello(identity: .none, attempt: 1, received: 0, replay: 0, earlyByteCount: 0, dataLimit: dataLimit)
        #expect(try endpoint.accept(hello, now: now) != nil)
        endpoint.greetingSent()
        return endpoint
    }

    /// A stream of the peer's; what it owes at first has left.
    func opened(_ endpoint: inout Endpoint, credit: UInt64) throws -> StreamSlot {
        var writer = ByteWriter(header)
        writer.appendOpen(stream: 0, target: 0, sendCredit: 10_000, receiveCredit: credit)
        var offset = 0
        guard
            case .opened(let slot, _) = try endpoint.receive(
                UnsafeRawBufferPointer(rebasing: header[..<writer.count]).bytes,
                at: &offset, now: now)
        else { throw ProtocolFault("not opened") }
        endpoint.adopt(slot, owner: 9)
        let batch = endpoint.nextBatch(limit: 1000, control: control, now: now)
        endpoint.batchSent(batch, batch.byteCount)
        return slot
    }
}
