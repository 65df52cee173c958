import CRing
import Glibc
import Testing

/// How connections end: in order, by reset, or never begun.
@Suite struct EndingTests {
    @Test(arguments: Driver.here) func endOfStreamIsZero(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        other.plainSend([1])
        other.finish()
        let memory = Memory(count: 10)
        ring.receive(one, into: memory, 1)
        #expect(try ring.result(of: 1) == 1)
        ring.receive(one, into: memory, 2)
        #expect(try ring.result(of: 2) == 0)
        ring.receivePooled(one, 3)
        let end = try #require(try ring.collect(1)[3])
        #expect(end.result == 0)
        #expect(end.flags == 0, "the end of a stream carries no buffer")
    }

    @Test(arguments: Driver.here) func parkedReceivesSeeTheEndOfTheStream(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (plain, plainPeer) = try Socket.pair()
        let (pooled, pooledPeer) = try Socket.pair()
        ring.receive(plain, into: Memory(count: 10), 1)
        ring.receivePooled(pooled, 2)
        ring.expectQuiet()
        plainPeer.finish()
        pooledPeer.finish()
        let ended = try ring.collect(2)
        #expect(ended.values.allSatisfy { $0.result == 0 && $0.flags == 0 })
    }

    @Test(arguments: Driver.here) func resetFailsTheReceive(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (plain, plainPeer) = try Socket.pair()
        let (pooled, pooledPeer) = try Socket.pair()
        ring.receive(plain, into: Memory(count: 10), 1)
        ring.receivePooled(pooled, 2)
        ring.expectQuiet()
        plainPeer.reset()
        pooledPeer.reset()
        let ended = try ring.collect(2)
        #expect(ended.values.allSatisfy { $0.result == -ECONNRESET && $0.flags == 0 })
    }

    @Test(arguments: Driver.here) func resetFailsTheParkedSend(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.parkSend(one, 1)
        ring.expectQuiet()
        other.reset()
        #expect(try ring.result(of: 1) == -ECONNRESET)
        ring.send(one, Memory(count: 1000), 2)
        #expect(try ring.result(of: 2) == -EPIPE)
    }

    @Test(arguments: Driver.here) func sendingIntoAResetRaisesNoSignal(driver: Driver) throws {
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGPIPE)
        var before = sigset_t()
        pthread_sigmask(SIG_BLOCK, &signals, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
        func isRaised() -> Bool {
            var none = timespec()
            return sigtimedwait(&signals, nil, &none) == SIGPIPE
        }
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        one.finish()
        _ = Glibc.send(one.fd, [1], 1, 0)
        try #require(isRaised(), "this thread would see the signal")
        ring.send(one, Memory("x"), 1)
        #expect(try ring.result(of: 1) == -EPIPE)
        #expect(!isRaised())
        withExtendedLifetime(other) {}
    }

    @Test(arguments: Driver.here) func refusedConnectSaysSo(driver: Driver) throws {
        let ring = try TestRing(driver)
        let listener = try Socket.listener()
        let address = listener.address
        listener.close()
        let client = try Socket.tcp()
        ring.connect(client, to: address, 1)
        #expect(try ring.result(of: 1) == -ECONNREFUSED)
        withExtendedLifetime(client) {}
    }

    @Test(arguments: Driver.here) func connectedSocketIsNotConnectedAgain(driver: Driver) throws {
        let ring = try TestRing(driver)
        let listener = try Socket.listener()
        let client = try Socket.connected(to: listener)
        ring.connect(client, to: listener.address, 1)
        let result = try ring.result(of: 1)
        // The first connect(2) after a non-blocking one reports that one's success.
        #expect(result == -EISCONN || result == 0)
    }

    // MARK: Hang-up watch

    @Test(arguments: Driver.here) func halfCloseLeavesTheWatchAloneAndResetWakesIt(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.watchHangup(one, 1)
        ring.expectQuiet()
        other.plainSend([1, 2, 3])
        other.finish()
        ring.expectQuiet()
        let memory = Memory(count: 10)
        ring.receive(one, into: memory, 2)
        #expect(try ring.result(of: 2) == 3)
        ring.receive(one, into: memory, 3)
        #expect(try ring.result(of: 3) == 0)
        ring.expectQuiet()
        other.reset()
        let bits = try ring.result(of: 1)
        #expect(bits > 0)
        #expect(bits & Int32(POLLHUP) != 0)
        #expect(bits & ~Int32(POLLERR | POLLHUP) == 0)
    }

    @Test(arguments: Driver.here) func watchBegunAfterTheHalfCloseSeesTheReset(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        other.finish()
        ring.receive(one, into: Memory(count: 1), 1)
        #expect(try ring.result(of: 1) == 0)
        ring.watchHangup(one, 2)
        ring.expectQuiet()
        other.reset()
        #expect(try ring.result(of: 2) & Int32(POLLHUP) != 0)
    }

    @Test(arguments: Driver.here) func watchBegunAfterTheResetCompletesAtOnce(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.receivePooled(one, 1)
        ring.expectQuiet()
        other.reset()
        #expect(try ring.result(of: 1) == -ECONNRESET)
        ring.watchHangup(one, 2)
        #expect(try ring.result(of: 2) & Int32(POLLHUP) != 0)
        ring.watchHangup(one, 3)
        #expect(try ring.result(of: 3) & Int32(POLLHUP) != 0)
    }

    @Test(arguments: Driver.here) func bothDirectionsShutIsAHangup(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.watchHangup(one, 1)
        one.finish()
        ring.expectQuiet()
        other.finish()
        #expect(try ring.result(of: 1) == Int32(POLLHUP))
    }

    @Test(arguments: Driver.here) func resetWakesEverythingThatIsParked(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.parkSend(one, 2)
        ring.receive(one, into: Memory(count: 1), 1)
        ring.watchHangup(one, 3)
        ring.expectQuiet()
        other.reset()
        let ended = try ring.collect(3)
        let results = [ended[1], ended[2]].map { $0?.result ?? 1 }
        // The kernel hands the error out once; the other one sees a socket that is merely over.
        #expect(results.contains(-ECONNRESET))
        #expect(results.allSatisfy { [-ECONNRESET, -EPIPE, 0].contains($0) })
        #expect(try #require(ended[3]).result & Int32(POLLHUP) != 0)
    }
}

extension TestRing {
    /// Leaves a send parked: sends until one stays for longer than the kernel takes to probe a closed window.
    func parkSend(_ socket: Socket, _ token: UInt64) {
        socket.limitBuffers(to: 16384)
        let memory = Memory(count: 1 << 20)
        repeat { send(socket, memory, token) } while !wait(nanoseconds: 500_000_000).isEmpty
    }
}
