import Testing
import Time
import Wire
@testable import Tunnel

/// Rule 6.15: what the sender's pace lets go is never more than the receiver accepts, whatever holds it back on the way.
@Suite struct ResetPaceTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: (1_000 + milliseconds) * 1_000_000) }

    /// Users come and are reset as fast as can be for ten seconds, over a path that holds everything back for a while, again and
    /// again, and then delivers it at once.
    /// protocol 6.15
    @Test(arguments: [1, 60, 900, 4000] as [UInt64]) func theReceiverAcceptsWhatTheSenderPaces(held: UInt64) throws {
        var sender = Endpoint(role: .client, limits: .init(retained: 1 << 20, received: 1 << 20, streams: 1000), now: at(0))
        var receiver = Endpoint(role: .server, limits: .init(retained: 1 << 20, received: 1 << 20, streams: 1000), now: at(0))
        let (offer, limit) = sender.offer(earlyMaximum: 0)
        let hello = Hello(identity: .none, attempt: 1, received: 0, replay: 0, earlyByteCount: 0, dataLimit: limit)
        let answer = try #require(try receiver.accept(hello, now: at(0)))
        try sender.resume(
            offer,
            Welcome(
                identity: SessionIdentity(high: 1, low: 1), secret: .zero, attempt: 1, epoch: 1, received: answer.received,
                dataLimit: answer.dataLimit, maximumStreams: 1000, initialCredit: 4096), now: at(0))
        sender.greetingSent()
        receiver.greetingSent()
        let header = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.headerMaximum, alignment: 8)
        let control = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.controlBufferByteCount, alignment: 8)
        defer { header.deallocate(); control.deallocate() }
        var line: [UInt8] = [], start: UInt64 = 0
        var arrived = 0, opened = 0
        for now in 0..<10_000 as Range<UInt64> {
            _ = sender.handleTimeout(now: at(now))
            for _ in 0..<20 where sender.canOpen {
                let slot = sender.open(owner: 1, target: 0, now: at(now))
                opened += 1
                while let frame = sender.nextFrame(into: header, payloadMaximum: 1, now: at(now)) { line += header[..<frame.headerByteCount] }
                sender.reset(slot, .reset, now: at(now))
            }
            while let frame = sender.nextFrame(into: header, payloadMaximum: 1, now: at(now)) { line += header[..<frame.headerByteCount] }
            guard now % held == 0 else { continue }
            while sender.wantsBatch(now: at(now)) {
                let batch = sender.nextBatch(limit: 1 << 20, control: control, now: at(now))
                let from = Int(batch.start - start)
                var wire = Array(line[from..<(from + batch.rest)]) + control[batch.control]
                wire += line[(from + batch.rest)..<(from + batch.rest + batch.more)]
                sender.batchSent(batch, batch.byteCount)
                var offset = 0
                while true {
                    let event = try receiver.receive(wire.span.bytes, at: &offset, now: at(now))
                    if case .incomplete = event { break }
                    if case .opened(let slot, _) = event { receiver.adopt(slot, owner: 1) }
                    if case .reset = event { arrived += 1 }
                }
                receiver.heard(now: at(now))
            }
            while receiver.wantsBatch(now: at(now)) {
                let batch = receiver.nextBatch(limit: 1 << 20, control: control, now: at(now))
                receiver.batchSent(batch, batch.byteCount)
                var offset = 0
                while try sender.receive(UnsafeRawBufferPointer(rebasing: control[batch.control]).bytes, at: &offset, now: at(now)) != .incomplete {}
                sender.heard(now: at(now))
            }
            let released = Int(sender.acknowledged - start)
            line.removeFirst(released)
            start += UInt64(released)
        }
        #expect(arrived > 1000, "\(arrived) of \(opened) were reset")
        if held == 1 { #expect(arrived > 70_000, "\(arrived) of \(opened) in ten seconds") }
    }
}
