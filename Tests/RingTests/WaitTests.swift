import CRing
import Glibc
import Testing

/// The one call that submits, waits and carries the deadline.
@Suite struct WaitTests {
    @Test(arguments: Driver.here) func zeroDoesNotWait(driver: Driver) throws {
        let ring = try TestRing(driver)
        let start = Clock.now
        for _ in 0..<100 { #expect(ring.wait(nanoseconds: 0).isEmpty) }
        #expect(Clock.now - start < 100_000_000)
    }

    @Test(arguments: Driver.here) func deadlineIsKept(driver: Driver) throws {
        let ring = try TestRing(driver)
        for milliseconds in [1, 30, 120] as [Int64] {
            let start = Clock.now
            #expect(ring.wait(nanoseconds: milliseconds * 1_000_000).isEmpty)
            let took = Clock.now - start
            #expect(took >= milliseconds * 1_000_000, "\(took) ns")
            #expect(took < milliseconds * 1_000_000 + 1_000_000_000, "\(took) ns")
        }
    }

    @Test(arguments: Driver.here) func deadlineHoldsWithAnOperationParked(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.receivePooled(one, 1)
        let start = Clock.now
        #expect(ring.wait(nanoseconds: 400_000_000).isEmpty)
        let took = Clock.now - start
        #expect(took >= 400_000_000 && took < 750_000_000, "\(took) ns; once, not once per submission")
        withExtendedLifetime(other) {}
    }

    /// A peer that we do not read for a while may send on; nobody asked, so nobody is to be woken.
    @Test(arguments: Driver.here) func waitingWithUnreadBytesCostsNoProcessor(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.receivePooled(one, 1)
        ring.expectQuiet(milliseconds: 5)
        other.plainSend([1])
        _ = try ring.takePooled(#require(try ring.collect(1)[1]))
        other.plainSend([2])
        let spent = Clock.processor
        for _ in 0..<20 { #expect(ring.wait(nanoseconds: 15_500_000).isEmpty) }
        #expect(Clock.processor - spent < 30_000_000, "\(Clock.processor - spent) ns of 310 ms")
    }

    /// One wait instead of two.
    @Test(arguments: Driver.here) func unhurriedSendIsToldWithWhatComesNext(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        var together = 0
        for _ in 0..<100 {
            ring.receivePooled(one, 1)
            ring.send(one, Memory([1]), flags: Int32(RING_UNHURRIED), 2)
            let answer = OtherThread(after: 0) {
                _ = try? other.plainReceiveAll(1)
                other.plainSend([2])
            }
            var tokens: [UInt64] = []
            while !tokens.contains(1) {
                let completions = ring.wait(nanoseconds: 10_000_000_000)
                if completions.count == 2 { together += 1 }
                for completion in completions where completion.token == 1 { _ = try ring.takePooled(completion) }
                tokens += completions.map(\.token)
            }
            answer.join()
            #expect(tokens == [2, 1])
        }
        #expect(together > 0)
    }

    @Test(arguments: Driver.here) func unhurriedSendIsToldWhenNothingComes(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        for timeout in [-1, 20_000_000_000] as [Int64] {
            let start = Clock.now
            ring.send(one, Memory([1]), flags: Int32(RING_UNHURRIED), 1)
            #expect(ring.wait(nanoseconds: timeout).map(\.token) == [1])
            #expect(Clock.now - start < 10_000_000_000)
        }
        // Without waiting, what has completed is told.
        ring.send(one, Memory([1]), flags: Int32(RING_UNHURRIED), 1)
        #expect(ring.wait(nanoseconds: 0).map(\.token) == [1])
        withExtendedLifetime(other) {}
    }

    /// What somebody waits for does not wait for what nobody waits for.
    @Test(arguments: Driver.here) func unhurriedSendDelaysNothing(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let (third, fourth) = try Socket.pair()
        ring.send(one, Memory([1]), flags: Int32(RING_UNHURRIED), 1)
        ring.send(third, Memory([1]), 2)
        #expect(Set(ring.wait(nanoseconds: 20_000_000_000).map(\.token)) == [1, 2])
        withExtendedLifetime((other, fourth)) {}
    }

    @Test(arguments: Driver.here) func completionEndsTheWaitEarly(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.receivePooled(one, 1)
        let sender = OtherThread(after: 30) { other.plainSend([1]) }
        let start = Clock.now
        let completions = ring.wait(nanoseconds: 20_000_000_000)
        #expect(completions.map(\.token) == [1])
        #expect(Clock.now - start < 10_000_000_000)
        sender.join()
    }

    @Test(arguments: Driver.here) func wakeFromAnotherThreadEndsAnEndlessWait(driver: Driver) throws {
        let ring = try TestRing(driver)
        let waker = OtherThread(after: 30) { ring_wake(ring.ring) }
        #expect(ring.wait(nanoseconds: -1).isEmpty)
        waker.join()
        let start = Clock.now
        #expect(ring.wait(nanoseconds: 30_000_000).isEmpty)
        #expect(Clock.now - start >= 30_000_000, "a wake works once")
    }

    @Test(arguments: Driver.here) func wakeBeforeTheWaitIsNotLost(driver: Driver) throws {
        let ring = try TestRing(driver)
        for _ in 0..<50 {
            for _ in 0..<3 { ring_wake(ring.ring) }
            #expect(ring.wait(nanoseconds: -1).isEmpty)
        }
        let start = Clock.now
        #expect(ring.wait(nanoseconds: 20_000_000).isEmpty)
        #expect(Clock.now - start >= 20_000_000, "many wakes are one")
    }

    @Test(arguments: Driver.here) func noWakeIsLostAmongCompletions(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let rounds = 2000
        let woken = Counter()
        let waker = OtherThread(after: 0) {
            for round in 1...rounds {
                woken.set(round)
                ring_wake(ring.ring)
                if round % 7 == 0 { other.plainSend([1]) }
            }
        }
        var token: UInt64 = 0
        ring.receivePooled(one, token)
        while woken.value < rounds || ring.inFlight == 0 {
            for completion in ring.wait(nanoseconds: 5_000_000_000) {
                _ = try ring.takePooled(completion)
                token += 1
                ring.receivePooled(one, token)
            }
        }
        waker.join()
    }

    @Test(arguments: Driver.here) func signalsDoNotShortenTheWait(driver: Driver) throws {
        let ring = try TestRing(driver)
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(SIGURG, &action, nil)
        let waiter = pthread_self()
        let annoyer = OtherThread(after: 0) {
            for _ in 0..<10 {
                usleep(10_000)
                pthread_kill(waiter, SIGURG)
            }
        }
        let start = Clock.now
        #expect(ring.wait(nanoseconds: 150_000_000).isEmpty)
        #expect(Clock.now - start >= 150_000_000)
        annoyer.join()
    }

    @Test(arguments: Driver.here) func completionsThatDoNotFitAreKept(driver: Driver) throws {
        let ring = try TestRing(driver)
        let pairs = try (0..<10).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() { ring.send(pair.0, Memory("x"), UInt64(index)) }
        var counts: [Int] = []
        while counts.reduce(0, +) < 10 {
            counts.append(ring.wait(nanoseconds: 1_000_000_000, capacity: 3).count)
        }
        #expect(counts == [3, 3, 3, 1])
        #expect(ring.inFlight == 0)
    }

    @Test(arguments: Driver.here) func keptCompletionsDoNotHoldUpSubmissions(driver: Driver) throws {
        let ring = try TestRing(driver)
        let pairs = try (0..<4).map { _ in try Socket.pair() }
        for (index, pair) in pairs.enumerated() { ring.send(pair.0, Memory("x"), UInt64(index)) }
        #expect(ring.wait(nanoseconds: 1_000_000_000, capacity: 1).count == 1)
        let (one, other) = try Socket.pair()
        ring.send(one, Memory("y"), 100)
        #expect(ring.wait(nanoseconds: 1_000_000_000, capacity: 1).count == 1)
        #expect(try other.plainReceive() == [UInt8(ascii: "y")], "sent while older completions are kept")
        _ = try ring.collect(3)
    }

    @Test(arguments: Driver.here) func moreOperationsThanTheQueueHolds(driver: Driver) throws {
        let ring = try TestRing(driver, entries: 64)
        let pairs = try (0..<300).map { _ in try Socket.pair() }
        let memory = Memory("x")
        for (index, pair) in pairs.enumerated() {
            ring.receivePooled(pair.1, UInt64(index) + 1000)
            ring.send(pair.0, memory, UInt64(index))
        }
        #expect(ring.inFlight == 600)
        var received = 0
        var sent = 0
        while received < 300 || sent < 300 {
            for completion in ring.wait(nanoseconds: 5_000_000_000) {
                if completion.token < 1000 {
                    #expect(completion.result == 1)
                    sent += 1
                } else if completion.result == -ENOBUFS {
                    ring.receivePooled(pairs[Int(completion.token) - 1000].1, completion.token)
                } else {
                    #expect(try ring.takePooled(completion) == memory.bytes(1))
                    received += 1
                }
            }
        }
    }

    @Test(arguments: Driver.here) func ringBelongsToTheThreadThatWaits(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.send(one, Memory("x"), 1)
        let owner = OtherThread(after: 0) {
            #expect(ring.wait(nanoseconds: 1_000_000_000).map(\.result) == [1])
            ring.close()
        }
        owner.join()
        withExtendedLifetime(other) {}
    }

    @Test(arguments: Driver.here) func twoThousandSocketsAtOnce(driver: Driver) throws {
        try #require(Socket.descriptorLimit >= 4500, "this machine allows too few descriptors")
        let ring = try TestRing(driver, entries: 256, poolCount: 64)
        let listener = try Socket.listener()
        let pairs = try (0..<2000).map { _ in try Socket.pair(through: listener) }
        for (index, pair) in pairs.enumerated() {
            ring.receivePooled(pair.0, UInt64(index))
            ring.watchHangup(pair.0, UInt64(index) + 10_000)
        }
        ring.expectQuiet()
        #expect(ring.inFlight == 4000)
        for (index, pair) in pairs.enumerated() { pair.1.plainSend([UInt8(truncatingIfNeeded: index)]) }
        var received = 0
        while received < 2000 {
            for completion in ring.wait(nanoseconds: 5_000_000_000) {
                if completion.result == -ENOBUFS {
                    ring.receivePooled(pairs[Int(completion.token)].0, completion.token)
                    continue
                }
                #expect(try ring.takePooled(completion) == [UInt8(truncatingIfNeeded: completion.token)])
                received += 1
            }
        }
        for pair in pairs { pair.1.reset() }
        let ended = try ring.collect(2000)
        #expect(ended.values.allSatisfy { $0.result & Int32(POLLHUP) != 0 && $0.token >= 10_000 })
        #expect(ring.inFlight == 0)
    }
}
