import CRing
import Glibc
import Testing

/// Operations that are asked to end: each completes once, and the descriptor can be closed and used again.
@Suite struct CancelTests {
    @Test(arguments: Driver.here) func everyKindThatIsParkedEnds(driver: Driver) throws {
        let ring = try TestRing(driver)
        let listener = try Socket.listener()
        let (plain, plainPeer) = try Socket.pair()
        let (pooled, pooledPeer) = try Socket.pair()
        let (full, fullPeer) = try Socket.pair()
        let (event, writer) = try Socket.pipe()
        ring.parkSend(full, 4)
        let (connecting, crowd) = try connectingSocket(ring, token: 6)
        ring.accept(listener, 1)
        ring.receive(plain, into: Memory(count: 10), 2)
        ring.receivePooled(pooled, 3)
        ring.readable(event.fd, 5)
        ring.watchHangup(plain, 7)
        ring.expectQuiet()
        for socket in [listener, plain, pooled, full, event, connecting] { ring.cancel(socket) }
        let ended = try ring.collect(7)
        #expect(ended.values.allSatisfy { $0.result == -ECANCELED && $0.flags == 0 })
        ring.expectQuiet()
        #expect(ring.inFlight == 0)
        for socket in [listener, plain, pooled, full, event, connecting] { ring.forget(socket) }
        withExtendedLifetime((plainPeer, pooledPeer, fullPeer, crowd, writer)) {}
    }

    /// A connect that stays under way: the listener's backlog is full, so the kernel drops the SYN.
    private func connectingSocket(_ ring: TestRing, token: UInt64) throws -> (Socket, [Socket]) {
        let listener = try Socket.listener(backlog: 0)
        let crowd = try (0..<3).map { _ in try Socket.connected(to: listener) }
        let client = try Socket.tcp()
        ring.connect(client, to: listener.address, token)
        return (client, crowd + [listener])
    }

    @Test(arguments: Driver.here) func allThreeOfOneDescriptorEnd(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.parkSend(one, 2)
        ring.receivePooled(one, 1)
        ring.watchHangup(one, 3)
        ring.expectQuiet()
        ring.cancel(one)
        ring.cancel(one)
        #expect(try ring.collect(3).values.allSatisfy { $0.result == -ECANCELED })
        ring.cancel(one)
        ring.expectQuiet()
        withExtendedLifetime(other) {}
    }

    /// The kernel has no room for the wish, again and again: the operation ends all the same, and its socket can be closed.
    @Test(arguments: Driver.here) func aCancelThatFindsNoRoomIsTriedAgain(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 10)
        ring.receive(one, into: memory, 1)
        ring.expectQuiet()
        for ordinal in 1...3 as ClosedRange<UInt64> { #expect(ring_fault_fail(ring.ring, RING_FAULT_CANCEL, ordinal, ENOMEM) == 0) }
        ring.cancel(one)
        #expect(try ring.collect(1)[1]?.result == -ECANCELED)
        #expect(ring_fault_count(ring.ring, RING_FAULT_CANCEL) == 4)
        ring.forget(one)
        withExtendedLifetime(other) {}
    }

    @Test(arguments: Driver.here) func cancelInTheSameBatchTriesFirst(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 10)
        other.plainSend([7])
        ring.receive(one, into: memory, 1)
        ring.send(one, Memory("ok"), 2)
        ring.watchHangup(one, 3)
        ring.cancel(one)
        let ended = try ring.collect(3)
        #expect(ended[1]?.result == 1)
        #expect(ended[2]?.result == 2)
        #expect(ended[3]?.result == -ECANCELED)
        ring.receive(one, into: memory, 4)
        ring.cancel(one)
        #expect(try ring.result(of: 4) == -ECANCELED)
    }

    @Test(arguments: Driver.here) func cancelOfNothingIsSilent(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.cancel(one)
        ring.expectQuiet()
        #expect(ring_cancel(ring.ring, 1 << 20) == 0)
        #expect(ring_cancel(ring.ring, -1) == -EINVAL)
        ring.send(one, Memory("x"), 1)
        #expect(try ring.result(of: 1) == 1)
        withExtendedLifetime(other) {}
    }

    @Test(arguments: Driver.here) func newOperationsAfterACancelAreNotStruckByIt(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 10)
        for round in 0..<100 as Range<UInt64> {
            ring.receive(one, into: memory, 2 * round)
            if round % 2 == 0 { _ = ring.wait(nanoseconds: 0) }
            ring.cancel(one)
            #expect(try ring.result(of: 2 * round) == -ECANCELED)
            ring.receive(one, into: memory, 2 * round + 1)
            other.plainSend([UInt8(round)])
            #expect(try ring.result(of: 2 * round + 1) == 1)
            #expect(memory.bytes(1) == [UInt8(round)])
        }
    }

    @Test(arguments: Driver.here) func cancelledSendTellsHowMuchWasSent(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        one.limitBuffers(to: 32768)
        let bytes = patterned(16_000_000)
        let memory = Memory(bytes)
        var sent = 0
        var received: [UInt8] = []
        for token in 0..<60 as Range<UInt64> {
            ring.send(one, [iovec(iov_base: memory.start + sent, iov_len: bytes.count - sent)], token)
            // At times it has gone out, at times it is parked, at times it has not been looked at.
            if token % 3 != 0 { _ = ring.wait(nanoseconds: 0).map { sent += Int(max($0.result, 0)) } }
            if token % 2 == 0 { received += try other.receiveWhatIsThere() }
            ring.cancel(one)
            while ring.inFlight > 0 {
                for completion in ring.wait(nanoseconds: 1_000_000_000) {
                    try #require(completion.result == -ECANCELED || completion.result > 0)
                    sent += Int(max(completion.result, 0))
                }
            }
        }
        one.finish()
        received += try other.plainReceiveAll(sent - received.count)
        #expect(try other.plainReceive().isEmpty, "not a byte more than the completions told")
        #expect(received == Array(bytes[..<sent]))
    }

    @Test(arguments: Driver.here) func closeAfterCancelReachesThePeerAtOnce(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.receivePooled(one, 1)
        ring.watchHangup(one, 2)
        ring.expectQuiet()
        ring.cancel(one)
        _ = try ring.collect(2)
        ring.forget(one)
        one.close()
        #expect(try other.plainReceive().isEmpty)
    }

    @Test(arguments: Driver.here) func listenersPortIsFreeAfterCancelAndClose(driver: Driver) throws {
        let ring = try TestRing(driver)
        let listener = try Socket.listener(host: 7)
        let address = listener.address
        ring.accept(listener, 1)
        ring.expectQuiet()
        ring.cancel(listener)
        #expect(try ring.result(of: 1) == -ECANCELED)
        ring.forget(listener)
        listener.close()
        try Socket.expectNobodyListens(at: address)
    }

    @Test(arguments: Driver.here) func nextSocketUnderTheSameNumberStartsAfresh(driver: Driver) throws {
        let ring = try TestRing(driver)
        let memory = Memory(count: 10)
        let (one, firstPeer) = try Socket.pair()
        var peer = firstPeer
        for round in 0..<50 as Range<UInt64> {
            ring.receive(one, into: memory, 10 * round)
            ring.watchHangup(one, 10 * round + 1)
            _ = ring.wait(nanoseconds: 0)
            peer.plainSend([UInt8(round)])
            #expect(try ring.result(of: 10 * round) == 1)
            #expect(memory.bytes(1) == [UInt8(round)])
            ring.cancel(one)
            #expect(try ring.result(of: 10 * round + 1) == -ECANCELED)
            // Someone else still holds the old socket, as a forked child would: its events are not ours.
            let held = Socket(dup(one.fd))
            ring.forget(one)
            let (next, nextPeer) = try Socket.pair()
            one.replace(by: next)
            ring.receive(one, into: memory, 10 * round + 2)
            ring.watchHangup(one, 10 * round + 3)
            peer.plainSend([99])
            peer.reset()
            if round < 3 { ring.expectQuiet() } else { #expect(ring.wait(nanoseconds: 0).isEmpty) }
            ring.cancel(one)
            #expect(try ring.collect(2).values.allSatisfy { $0.result == -ECANCELED })
            peer = nextPeer
            withExtendedLifetime(held) {}
        }
    }

    @Test(arguments: Driver.here) func socketThatReturnsUnderItsNumberIsServedAgain(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        for token in 0..<10 as Range<UInt64> {
            ring.receivePooled(one, token)
            ring.expectQuiet(milliseconds: 5)
            other.plainSend([UInt8(token)])
            #expect(try ring.takePooled(#require(try ring.collect(1)[token])) == [UInt8(token)])
            let held = Socket(dup(one.fd))
            ring.forget(one)
            one.replace(by: try Socket.tcp())
            one.replace(by: held)
        }
    }

    @Test(arguments: Driver.here) func ringClosesWithThingsInFlight(driver: Driver) throws {
        for _ in 0..<20 {
            let listener = try Socket.listener(host: 8)
            let address = listener.address
            let (one, other) = try Socket.pair()
            let ring = try TestRing(driver)
            let memory = Memory(count: 10)
            ring.accept(listener, 1)
            ring.receive(one, into: memory, 2)
            ring.watchHangup(one, 3)
            ring.expectQuiet(milliseconds: 2)
            ring.readable(other.fd, 4)  // Not even handed over.
            ring.close()
            listener.close()
            try Socket.expectNobodyListens(at: address)
            other.plainSend([1])
            #expect(try one.plainReceive() == [1])
            #expect(memory.bytes(1) == [0], "the memory is ours again")
            one.close()
            #expect(try other.plainReceive().isEmpty)
        }
    }

    @Test(arguments: Driver.here) func ringClosesConnectionsThatNobodyWasToldOf(driver: Driver) throws {
        let ring = try TestRing(driver)
        let listener = try Socket.listener()
        let (one, other) = try Socket.pair()
        let client = try Socket.connected(to: listener)
        other.plainSend([1])
        ring.receivePooled(one, 1)
        ring.accept(listener, 2)
        var told = ring.wait(nanoseconds: 1_000_000_000, capacity: 1)
        if told.first?.token == 2 {
            _ = Glibc.close(told[0].result)
            ring.accept(listener, 3)
            let second = try Socket.connected(to: listener)
            told = ring.wait(nanoseconds: 1_000_000_000, capacity: 1)
            try #require(told.first?.token == 1)
            ring.close()
            #expect(try second.plainReceive().isEmpty)
        } else {
            ring.close()
        }
        #expect(try client.plainReceive().isEmpty)
    }
}

extension Socket {
    func receiveWhatIsThere() throws -> [UInt8] {
        var state = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        return poll(&state, 1, 0) == 1 ? try plainReceive(1 << 20) : []
    }
}
