import CRing
import Glibc
import Testing

/// The shared receive pool.
@Suite struct PoolTests {
    @Test(arguments: Driver.here) func pooledReceiveBringsBytesInABuffer(driver: Driver) throws {
        let ring = try TestRing(driver, poolCount: 16, poolBytes: 512)
        let (one, other) = try Socket.pair()
        for round in 0..<100 as Range<UInt64> {  // Far more often than there are buffers.
            ring.receivePooled(one, round)
            let bytes = (0..<(Int(round) + 1)).map { UInt8(truncatingIfNeeded: $0 + Int(round)) }
            other.plainSend(bytes)
            let completion = try #require(try ring.collect(1)[round])
            #expect(try ring.takePooled(completion) == bytes)
        }
    }

    @Test(arguments: Driver.here) func pooledReceiveStopsAtTheBuffersEnd(driver: Driver) throws {
        let ring = try TestRing(driver, poolCount: 16, poolBytes: 512)
        let (one, other) = try Socket.pair()
        let bytes = (0..<1300).map { UInt8(truncatingIfNeeded: $0 / 5) }
        other.plainSend(bytes)
        var received: [UInt8] = []
        for (token, count) in zip(0..<3 as Range<UInt64>, [512, 512, 276]) {
            ring.receivePooled(one, token)
            let completion = try #require(try ring.collect(1)[token])
            #expect(completion.result == count)
            received += try ring.takePooled(completion)
        }
        #expect(received == bytes)
    }

    @Test(arguments: Driver.here) func buffersOfTwoSocketsAreTwo(driver: Driver) throws {
        let ring = try TestRing(driver)
        let pairs = try (0..<16).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() {
            ring.receivePooled(pair.0, UInt64(index))
            pair.1.plainSend([UInt8](repeating: UInt8(index), count: 1000))
        }
        let completions = try ring.collect(16)
        #expect(Set(completions.values.map(\.buffer)).count == 16)
        for (token, completion) in completions {
            #expect(try ring.takePooled(completion) == [UInt8](repeating: UInt8(token), count: 1000))
        }
    }

    @Test(arguments: Driver.here) func emptyPoolFailsAndReturnedBufferHelps(driver: Driver) throws {
        let ring = try TestRing(driver)
        let pairs = try (0..<17).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() {
            pair.1.plainSend([UInt8(index)])
            ring.receivePooled(pair.0, UInt64(index))
        }
        let completions = try ring.collect(17)
        let failed = completions.values.filter { $0.result == -ENOBUFS }
        let served = completions.values.filter { $0.result == 1 }
        try #require(failed.count == 1 && served.count == 16)
        #expect(failed[0].flags == 0)
        let hungry = failed[0].token
        ring.receivePooled(pairs[Int(hungry)].0, hungry)
        #expect(try ring.result(of: hungry) == -ENOBUFS, "nothing has been returned")
        #expect(try ring.takePooled(served[0]) == [UInt8(served[0].token)])
        ring.receivePooled(pairs[Int(hungry)].0, hungry)
        let fed = try #require(try ring.collect(1)[hungry])
        #expect(try ring.takePooled(fed) == [UInt8(hungry)])
        for completion in served.dropFirst() { ring_pool_return(ring.ring, completion.buffer) }
    }

    /// Far more sockets with bytes than buffers, and a caller that returns each at once: everybody gets the same share.
    @Test(arguments: Driver.here) func shortPoolServesInTurn(driver: Driver) throws {
        let ring = try TestRing(driver, poolCount: 16, poolBytes: 512)
        let pairs = try (0..<100).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() {
            pair.1.plainSend([UInt8](repeating: UInt8(index), count: 20 * 512))
            ring.receivePooled(pair.0, UInt64(index))
        }
        var served = [Int](repeating: 0, count: pairs.count)
        while served.reduce(0, +) < 15 * pairs.count {
            for completion in ring.wait(nanoseconds: 5_000_000_000) {
                let index = Int(completion.token)
                #expect(try ring.takePooled(completion) == [UInt8](repeating: UInt8(index), count: 512))
                served[index] += 1
                if served[index] < 20 { ring.receivePooled(pairs[index].0, completion.token) }
            }
        }
        #expect(served.max()! - served.min()! <= 2, "shares from \(served.min()!) to \(served.max()!)")
    }

    @Test(arguments: Driver.here) func cancelEndsAReceiveThatWaitsForABuffer(driver: Driver) throws {
        let ring = try TestRing(driver, poolCount: 16)
        let pairs = try (0..<40).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() {
            pair.1.plainSend([UInt8(index)])
            ring.receivePooled(pair.0, UInt64(index))
        }
        let first = ring.wait(nanoseconds: 5_000_000_000)
        #expect(first.count == 16)
        for pair in pairs { ring.cancel(pair.0) }
        for completion in first { #expect(try ring.takePooled(completion).count == 1) }
        let rest = try ring.collect(24).values
        for completion in rest where completion.result == 1 { #expect(try ring.takePooled(completion).count == 1) }
        #expect(rest.allSatisfy { $0.result == 1 || $0.result == -ECANCELED })
        #expect(ring.inFlight == 0)
    }

    @Test(arguments: Driver.here) func emptyPoolHidesNeitherIdlenessNorTheEnd(driver: Driver) throws {
        let ring = try TestRing(driver)
        let eaters = try (0..<16).map { _ in try Socket.pair() }
        for (index, pair) in eaters.enumerated() {
            pair.1.plainSend([0])
            ring.receivePooled(pair.0, UInt64(index))
        }
        let eaten = try ring.collect(16)

        let (idle, idlePeer) = try Socket.pair()
        let (ended, endedPeer) = try Socket.pair()
        let (reset, resetPeer) = try Socket.pair()
        endedPeer.finish()
        resetPeer.reset()
        ring.receivePooled(idle, 100)
        ring.receivePooled(ended, 101)
        ring.receivePooled(reset, 102)
        let told = try ring.collect(2)
        #expect(told[101]?.result == 0)
        #expect(told[102]?.result == -ECONNRESET)
        ring.expectQuiet()
        for completion in eaten.values { ring_pool_return(ring.ring, completion.buffer) }
        idlePeer.plainSend([5])
        #expect(try ring.takePooled(#require(try ring.collect(1)[100])) == [5])
    }

    @Test(arguments: Driver.here) func idleSocketsHoldNoBuffer(driver: Driver) throws {
        let ring = try TestRing(driver)
        let pairs = try (0..<100).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() { ring.receivePooled(pair.0, UInt64(index)) }
        ring.expectQuiet()
        for (index, pair) in pairs.enumerated() {
            pair.1.plainSend([UInt8(index)])
            let completion = try #require(try ring.collect(1)[UInt64(index)])
            #expect(try ring.takePooled(completion) == [UInt8(index)])
        }
    }

    @Test(arguments: Driver.here) func cancelledReceivesLoseNoBuffer(driver: Driver) throws {
        let ring = try TestRing(driver)
        let pairs = try (0..<20).map { _ in try Socket.pair() }
        for _ in 0..<10 {
            for (index, pair) in pairs.enumerated() { ring.receivePooled(pair.0, UInt64(index)) }
            _ = ring.wait(nanoseconds: 0)
            for pair in pairs { ring.cancel(pair.0) }
            #expect(try ring.collect(20).values.allSatisfy { $0.result == -ECANCELED && $0.flags == 0 })
        }
        for (index, pair) in pairs.prefix(16).enumerated() {
            pair.1.plainSend([1])
            ring.receivePooled(pair.0, UInt64(index))
        }
        for completion in try ring.collect(16).values { #expect(try ring.takePooled(completion) == [1]) }
    }

    @Test func returningABufferTwiceEndsTheProcess() async {
        await #expect(processExitsWith: .signal(SIGABRT)) {
            let ring = try TestRing(.epoll)
            let (one, other) = try Socket.pair()
            other.plainSend([1])
            ring.receivePooled(one, 1)
            let completion = try #require(try ring.collect(1)[1])
            ring_pool_return(ring.ring, completion.buffer)
            ring_pool_return(ring.ring, completion.buffer)
        }
    }
}
