#if DEBUG
import CRing
import Glibc
import Testing

/// Each failing call in turn, and everything short: the faults that later tests build upon.
@Suite struct FaultTests {
    @Test(arguments: Driver.here) func eachKindFailsOnceAndThenWorks(driver: Driver) throws {
        let ring = try TestRing(driver)
        let kinds = [
            RING_FAULT_ACCEPT, RING_FAULT_CONNECT, RING_FAULT_RECEIVE, RING_FAULT_RECEIVE_POOLED,
            RING_FAULT_SEND, RING_FAULT_READABLE, RING_FAULT_WRITABLE, RING_FAULT_WATCH_HANGUP,
        ]
        for (index, kind) in kinds.enumerated() {
            #expect(ring_fault_fail(ring.ring, kind, 1, EMFILE + Int32(index)) == 0)
        }
        let listener = try Socket.listener()
        let client = try Socket.tcp()
        let (one, other) = try Socket.pair()
        ring.accept(listener, 0)
        ring.connect(client, to: listener.address, 1)
        ring.receive(one, into: Memory(count: 1), 2)
        ring.receivePooled(other, 3)
        ring.send(one, Memory("x"), 4)
        let (reader, writer) = try Socket.pipe()
        ring.readable(reader.fd, 5)
        ring.writable(writer.fd, 6)
        ring.watchHangup(one, 7)
        let failed = try ring.collect(8)
        for index in 0..<8 { #expect(failed[UInt64(index)]?.result == -(EMFILE + Int32(index))) }

        ring.accept(listener, 0)
        ring.connect(client, to: listener.address, 1)
        ring.receivePooled(other, 3)
        ring.send(one, Memory("x"), 4)
        let worked = try ring.collect(4)
        #expect(worked[1]?.result == 0 && worked[4]?.result == 1)
        let accepted = Socket(try #require(worked[0]).result)
        #expect(accepted.fd >= 0)
        #expect(try ring.takePooled(#require(worked[3])) == [UInt8(ascii: "x")])
        for kind in kinds.prefix(2) { #expect(ring_fault_count(ring.ring, kind) == 2) }
        withExtendedLifetime(writer) {}
    }

    /// One byte at a time, then two …: what arrives is the same.
    @Test(arguments: Driver.here, 1...5 as ClosedRange<UInt32>)
    func everythingShortened(driver: Driver, most: UInt32) throws {
        let ring = try TestRing(driver)
        for kind in [RING_FAULT_SEND, RING_FAULT_RECEIVE, RING_FAULT_RECEIVE_POOLED] {
            #expect(ring_fault_shorten(ring.ring, kind, UInt64(RING_FAULT_EVERY), most) == 0)
        }
        let (one, other) = try Socket.pair()
        let bytes = patterned(600)
        let memory = Memory(bytes)
        let target = Memory(count: 100)
        var sent = 0
        var received: [UInt8] = []
        ring.receivePooled(other, 1)
        while received.count < bytes.count {
            if sent < bytes.count {
                // Pieces of one, two, three bytes, so that the cut falls within pieces and between them.
                let rest = memory.start + sent
                let pieces = (1...3).map { iovec(iov_base: rest + $0 * ($0 - 1) / 2, iov_len: $0) }
                let last = [iovec(iov_base: rest, iov_len: bytes.count - sent)]
                ring.send(one, sent + 6 <= bytes.count ? pieces : last, 2)
                let result = try ring.resultAlone(of: 2)
                #expect(result > 0 && result <= Int32(most))
                sent += Int(result)
            }
            while received.count < sent {
                for completion in ring.wait(nanoseconds: 2_000_000_000) {
                    try ring.takeEither(completion, target, &received)
                    if completion.token == 1 { ring.receive(other, into: target, 3) } else { ring.receivePooled(other, 1) }
                }
            }
        }
        #expect(received == bytes)
        #expect(ring_fault_count(ring.ring, RING_FAULT_SEND) >= 600 / Int(most))
    }

    @Test(arguments: Driver.here) func eachSendInTurnFailsAndIsRetried(driver: Driver) throws {
        for ordinal in 1...20 as ClosedRange<UInt64> {
            let ring = try TestRing(driver)
            #expect(ring_fault_fail(ring.ring, RING_FAULT_SEND, ordinal, ENOBUFS) == 0)
            #expect(ring_fault_shorten(ring.ring, RING_FAULT_SEND, UInt64(RING_FAULT_EVERY), 10) == 0)
            let (one, other) = try Socket.pair()
            let bytes = patterned(200)
            let memory = Memory(bytes)
            var sent = 0
            var failures = 0
            while sent < bytes.count {
                ring.send(one, [iovec(iov_base: memory.start + sent, iov_len: bytes.count - sent)], 1)
                let result = try ring.result(of: 1)
                if result == -ENOBUFS { failures += 1 } else { sent += Int(result) }
            }
            #expect(failures == 1)
            #expect(try other.plainReceiveAll(bytes.count) == bytes)
        }
    }

    @Test(arguments: Driver.here) func verbsAndWaitsFail(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        #expect(ring_fault_fail(ring.ring, RING_FAULT_QUEUE, 2, ENOMEM) == 0)
        #expect(ring_fault_fail(ring.ring, RING_FAULT_WAIT, 2, ENOMEM) == 0)
        ring.receivePooled(one, 1)
        var piece = iovec()
        #expect(ring_send(ring.ring, one.fd, &piece, 1, 0, 2) == -ENOMEM)
        #expect(ring.inFlight == 1, "what was refused does not complete")
        #expect(ring.wait(nanoseconds: 0).isEmpty)
        var completion = ring_completion()
        #expect(ring_wait(ring.ring, 0, &completion, 1) == -ENOMEM)
        other.plainSend([1])
        #expect(try ring.takePooled(#require(try ring.collect(1)[1])) == [1])
        ring_fault_clear(ring.ring)
        #expect(ring_fault_count(ring.ring, RING_FAULT_WAIT) == 0)
    }

    @Test(arguments: Driver.here) func rulesOfTheThreadGoToItsNextRing(driver: Driver) throws {
        try OtherThread.run {
            #expect(ring_fault_fail(nil, RING_FAULT_QUEUE, 1, ENOMEM) == 0)
            let first = try TestRing(driver)
            let second = try TestRing(driver)
            let (one, other) = try Socket.pair()
            #expect(ring_receive_pooled(second.ring, one.fd, 1) == 0)
            #expect(ring_receive_pooled(first.ring, other.fd, 1) == -ENOMEM)
        }
    }

    @Test func rulesThatMakeNoSenseAreRefused() throws {
        let ring = try TestRing(.epoll)
        #expect(ring_fault_fail(ring.ring, RING_FAULT_SEND, 1, 0) == -EINVAL)
        #expect(ring_fault_fail(ring.ring, RING_FAULT_KINDS, 1, 1) == -EINVAL)
        #expect(ring_fault_shorten(ring.ring, RING_FAULT_SEND, 1, 0) == -EINVAL)
        #expect(ring_fault_shorten(ring.ring, RING_FAULT_ACCEPT, 1, 1) == -EINVAL)
        for _ in 0..<16 { #expect(ring_fault_fail(ring.ring, RING_FAULT_SEND, 1, 1) == 0) }
        #expect(ring_fault_fail(ring.ring, RING_FAULT_SEND, 1, 1) == -ENOSPC)
    }
}

extension TestRing {
    func takeEither(_ completion: ring_completion, _ target: Memory, _ received: inout [UInt8]) throws {
        try #require(completion.result > 0)
        if completion.flags == 0 { received += target.bytes(completion.result) } else { received += try takePooled(completion) }
    }

    /// The result of a token, taken before anything else is.
    func resultAlone(of token: UInt64) throws -> Int32 {
        let completion = try #require(wait(nanoseconds: 2_000_000_000, capacity: 1).first)
        try #require(completion.token == token)
        return completion.result
    }
}
#endif
