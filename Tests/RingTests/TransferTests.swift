import CRing
import Glibc
import Testing

/// Bytes in, bytes out, on the way that works.
@Suite struct TransferTests {
    @Test(arguments: Driver.here) func acceptConnectSendReceive(driver: Driver) throws {
        let ring = try TestRing(driver)
        let listener = try Socket.listener()
        let client = try Socket.tcp()
        ring.accept(listener, 1)
        ring.expectQuiet()
        ring.connect(client, to: listener.address, 2)
        let opened = try ring.collect(2)
        #expect(opened[2]?.result == 0)
        let server = Socket(try #require(opened[1]).result)
        #expect(server.fd >= 0)
        #expect(fcntl(server.fd, F_GETFL) & O_NONBLOCK != 0, "accepted sockets are non-blocking")
        #expect(fcntl(server.fd, F_GETFD) & FD_CLOEXEC != 0, "accepted sockets are close-on-exec")

        let memory = Memory(count: 100)
        ring.receive(server, into: memory, 3)
        ring.send(client, Memory("hello"), 4)
        let moved = try ring.collect(2)
        #expect(moved[4]?.result == 5)
        #expect(moved[3]?.result == 5)
        #expect(memory.text(5) == "hello")
        #expect(ring.inFlight == 0)
    }

    @Test(arguments: Driver.here) func oneBatchAcceptsWhatIsPending(driver: Driver) throws {
        let ring = try TestRing(driver)
        let listener = try Socket.listener()
        let clients = try (0..<5).map { _ in try Socket.connected(to: listener) }
        var accepted: [Socket] = []
        for token in 0..<5 as Range<UInt64> {
            ring.accept(listener, token)
            accepted.append(Socket(try ring.result(of: token)))
        }
        #expect(accepted.allSatisfy { $0.fd >= 0 })
        #expect(Set(accepted.map(\.fd)).count == 5)
        ring.accept(listener, 9)
        ring.expectQuiet()
        let late = try Socket.connected(to: listener)
        accepted.append(Socket(try ring.result(of: 9)))
        withExtendedLifetime((clients, late)) {}
    }

    @Test(arguments: Driver.here) func receiveIsShortWhenLessIsThere(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 1000)
        other.plainSend([1, 2, 3])
        ring.receive(one, into: memory, 1)
        #expect(try ring.result(of: 1) == 3)
        #expect(memory.bytes(3) == [1, 2, 3])
    }

    @Test(arguments: Driver.here) func receiveLeavesWhatDoesNotFit(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 2)
        other.plainSend([1, 2, 3])
        ring.receive(one, into: memory, 1)
        #expect(try ring.result(of: 1) == 2)
        #expect(memory.bytes(2) == [1, 2])
        ring.receive(one, into: memory, 2)
        #expect(try ring.result(of: 2) == 1)
        #expect(memory.bytes(1) == [3])
    }

    @Test(arguments: Driver.here) func sendIsShortIntoAFullSocketAndParksAfterwards(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        one.limitBuffers(to: 65536)
        let bytes = patterned(8_000_000)
        let memory = Memory(bytes)
        ring.send(one, memory, 1)
        var sent = Int(try ring.result(of: 1))
        try #require(sent > 0 && sent < bytes.count, "sent \(sent)")
        ring.expectQuiet()

        var received: [UInt8] = []
        var token: UInt64 = 2
        while sent < bytes.count {
            ring.send(one, [iovec(iov_base: memory.start + sent, iov_len: bytes.count - sent)], token)
            if token % 2 == 0 { received += try other.plainReceive(1 << 20) }
            while ring.inFlight > 0 {
                if let completion = ring.wait(nanoseconds: 1_000_000).first {
                    sent += Int(completion.result)
                } else {
                    received += try other.plainReceive(1 << 20)
                }
            }
            token += 1
        }
        received += try other.plainReceiveAll(bytes.count - received.count)
        #expect(received == bytes)
    }

    @Test(arguments: Driver.here, [0, Int32(MSG_DONTWAIT), Int32(RING_UNHURRIED)])
    func gathersManyPieces(driver: Driver, flags: Int32) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        for pieces in [1, 8, 9, 64, 65, 256] {
            let memory = Memory((0..<(pieces * 100)).map { UInt8(truncatingIfNeeded: $0 / 3) })
            // Copied at submission: what is passed here is gone when the kernel looks.
            ring.send(
                one, (0..<pieces).map { iovec(iov_base: memory.start + $0 * 100, iov_len: 100) },
                flags: flags, 1)
            #expect(try ring.result(of: 1) == pieces * 100)
            #expect(try other.plainReceiveAll(pieces * 100) == memory.bytes(Int32(pieces * 100)))
        }
    }

    @Test(arguments: Driver.here) func fullSocketRefusesToWaitWhenAsked(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 1 << 20)
        let pieces = (0..<256).map { iovec(iov_base: memory.start + $0 * 4096, iov_len: 4096) }
        var sent = 0
        var result: Int32 = 0
        for token in 0..<10_000 as Range<UInt64> {
            ring.send(one, pieces, flags: Int32(MSG_DONTWAIT), token)
            result = try ring.result(of: token)
            if result < 0 { break }
            sent += Int(result)
        }
        #expect(result == -EAGAIN)
        #expect(try other.plainReceiveAll(sent).count == sent)
    }

    @Test(arguments: Driver.here) func unhurriedSendWaitsForRoom(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 1 << 20)
        let sent = try one.plainFill()
        ring.send(one, memory, flags: Int32(RING_UNHURRIED), 1)
        ring.expectQuiet(milliseconds: 20)
        _ = try other.plainReceiveAll(sent)
        let more = try ring.result(of: 1)
        #expect(more > 0)
        #expect(try other.plainReceiveAll(Int(more)).count == Int(more))
    }

    /// What is said to be sent is what was sent, and at once, though nothing else completes.
    @Test(arguments: Driver.here) func unhurriedSendIsShortWhereRoomIs(driver: Driver) throws {
        let ring = try TestRing(driver)
        for _ in 0..<20 {
            let (one, other) = try Socket.pair()
            one.limitBuffers(to: 4096)
            let bytes = patterned(1_000_000)
            ring.send(one, Memory(bytes), flags: Int32(RING_UNHURRIED), 1)
            let sent = Int(try ring.result(of: 1))
            #expect(sent > 0 && sent < bytes.count)
            one.finish()
            var received: [UInt8] = []
            while case let more = try other.plainReceive(), !more.isEmpty { received += more }
            #expect(received == Array(bytes.prefix(sent)))
        }
    }

    /// Also where more completes than the kernel's queue holds, and the word of the short send waits for room.
    @Test(arguments: Driver.here) func unhurriedSendIsShortAmongMany(driver: Driver) throws {
        let ring = try TestRing(driver, entries: 64)
        let pairs = try (0..<1000).map { _ in try Socket.pipe() }
        for (index, pair) in pairs.enumerated() {
            #expect(write(pair.1.fd, [1 as UInt8], 1) == 1)
            ring.readable(pair.0.fd, UInt64(index))
        }
        let (one, other) = try Socket.pair()
        one.limitBuffers(to: 4096)
        let bytes = patterned(1_000_000)
        ring.send(one, Memory(bytes), flags: Int32(RING_UNHURRIED), 5000)
        let sent = Int(try #require(ring.collect(1001)[5000]).result)
        #expect(sent > 0 && sent < bytes.count)
        one.finish()
        var received: [UInt8] = []
        while case let more = try other.plainReceive(), !more.isEmpty { received += more }
        #expect(received == Array(bytes.prefix(sent)))
    }

    @Test(arguments: Driver.here) func unhurriedSendFailsAtOnce(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        other.close()
        _ = try one.plainReceive()
        one.plainSend([1])
        usleep(10_000)
        let start = Clock.now
        ring.send(one, Memory([1]), flags: Int32(RING_UNHURRIED), 1)
        #expect([-EPIPE, -ECONNRESET].contains(try ring.result(of: 1)))
        #expect(Clock.now - start < 5_000_000_000)
    }

    @Test(arguments: Driver.here) func bothDirectionsRunAtOnce(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        let memory = Memory(count: 10)
        ring.receive(one, into: memory, 1)
        ring.watchHangup(one, 2)
        ring.send(one, Memory("ping"), 3)
        #expect(try ring.result(of: 3) == 4)
        #expect(try other.plainReceive() == [UInt8]("ping".utf8))
        other.plainSend([UInt8]("pong".utf8))
        #expect(try ring.result(of: 1) == 4)
        #expect(memory.text(4) == "pong")
        ring.cancel(one)
        #expect(try ring.result(of: 2) == -ECANCELED)
    }

    @Test(arguments: Driver.here) func readableTellsOfAPipeOnce(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (reader, writer) = try Socket.pipe()
        var byte: UInt8 = 1
        ring.readable(reader.fd, 1)
        ring.expectQuiet()
        write(writer.fd, &byte, 1)
        #expect(try ring.result(of: 1) == Int32(POLLIN))
        ring.expectQuiet()
        ring.readable(reader.fd, 2)
        #expect(try ring.result(of: 2) == Int32(POLLIN), "it was not read, so it is readable still")
        read(reader.fd, &byte, 1)
        ring.readable(reader.fd, 3)
        ring.expectQuiet()
        write(writer.fd, &byte, 1)
        #expect(try ring.result(of: 3) == Int32(POLLIN))
        read(reader.fd, &byte, 1)
        ring.readable(reader.fd, 4)
        ring.expectQuiet()
        writer.close()
        #expect(try ring.result(of: 4) == Int32(POLLHUP))
        ring.forget(reader)
    }

    @Test(arguments: Driver.here) func writableTellsOfRoomOnce(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (reader, writer) = try Socket.pipe()
        _ = fcntl(writer.fd, F_SETFL, O_NONBLOCK)
        var block = [UInt8](repeating: 7, count: 4096)
        ring.writable(writer.fd, 1)
        #expect(try ring.result(of: 1) == Int32(POLLOUT))
        while write(writer.fd, block, block.count) > 0 {}
        ring.writable(writer.fd, 2)
        ring.expectQuiet()
        #expect(read(reader.fd, &block, block.count) == block.count)
        #expect(try ring.result(of: 2) == Int32(POLLOUT))
        ring.expectQuiet()
        while write(writer.fd, block, block.count) > 0 {}
        ring.writable(writer.fd, 3)
        ring.expectQuiet()
        ring.cancel(writer)
        #expect(try ring.result(of: 3) == -ECANCELED)
        ring.writable(writer.fd, 4)
        ring.expectQuiet()
        reader.close()
        #expect(try ring.result(of: 4) & Int32(POLLERR) != 0)
        ring.forget(writer)
    }

    /// A send that waits stands in the way of a second writing operation, not of a reading one.
    @Test(arguments: Driver.here) func writableIsAWritingOperation(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.receivePooled(one, 1)
        ring.writable(one.fd, 2)
        #expect(ring_writable(ring.ring, one.fd, 3) == -EINVAL)
        #expect(try ring.result(of: 2) == Int32(POLLOUT))
        ring.cancel(one)
        #expect(try ring.result(of: 1) == -ECANCELED)
        withExtendedLifetime(other) {}
    }

    @Test(arguments: Driver.here) func readableShowsTheSameBitsOfAnEndedSocket(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.readable(one.fd, 1)
        ring.expectQuiet()
        other.finish()
        #expect(try ring.result(of: 1) == Int32(POLLIN))
        ring.readable(one.fd, 2)
        #expect(try ring.result(of: 2) == Int32(POLLIN))
        other.reset()
        ring.watchHangup(one, 3)
        _ = try ring.result(of: 3)
        ring.readable(one.fd, 4)
        #expect(try ring.result(of: 4) == Int32(POLLIN | POLLERR | POLLHUP))
    }

    @Test(arguments: Driver.here) func sendingNothingMovesNothing(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        ring.send(one, [iovec(iov_base: nil, iov_len: 0)], 1)
        #expect(try ring.result(of: 1) == 0)
        withExtendedLifetime(other) {}
    }

    @Test(arguments: Driver.here) func wrongArgumentsAreRefusedAtTheVerb(driver: Driver) throws {
        let ring = try TestRing(driver)
        let (one, other) = try Socket.pair()
        var byte: UInt8 = 0
        var address = sockaddr_in.loopback(port: 1)
        let pieces = [iovec](repeating: iovec(), count: 257)
        #expect(ring_accept(ring.ring, -1, 0) == -EINVAL)
        #expect(ring_receive(ring.ring, one.fd, &byte, 0, 0) == -EINVAL)
        #expect(ring_receive(ring.ring, one.fd, nil, 1, 0) == -EINVAL)
        #expect(ring_receive_pooled(ring.ring, -1, 0) == -EINVAL)
        #expect(ring_send(ring.ring, one.fd, pieces, 0, 0, 0) == -EINVAL)
        #expect(ring_send(ring.ring, one.fd, pieces, 257, 0, 0) == -EINVAL)
        #expect(ring_send(ring.ring, one.fd, pieces, 1, Int32(MSG_OOB), 0) == -EINVAL)
        withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                #expect(ring_connect(ring.ring, one.fd, $0, 0, 0) == -EINVAL)
                #expect(ring_connect(ring.ring, one.fd, $0, 4096, 0) == -EINVAL)
            }
        }
        #expect(ring_wait(ring.ring, 0, nil, 1) == -EINVAL)
        ring.receive(one, into: Memory(count: 1), 1)
        #expect(ring_receive_pooled(ring.ring, one.fd, 2) == -EINVAL, "one reading operation at a time")
        #expect(ring_accept(ring.ring, one.fd, 2) == -EINVAL)
        #expect(ring.inFlight == 1)
        ring.cancel(one)
        #expect(try ring.result(of: 1) == -ECANCELED)
        withExtendedLifetime(other) {}
    }

    @Test func optionsOutOfRangeAreRefused() {
        func open(_ change: (inout ring_options) -> Void) -> Int32 {
            var options = ring_options(
                driver: RING_DRIVER_EPOLL, entries: 64, pool_count: 16, pool_bytes: 512)
            change(&options)
            var opened: OpaquePointer?
            let result = ring_open(&opened, &options, nil, 0)
            #expect((opened != nil) == (result == 0))
            ring_close(opened)
            return result
        }
        #expect(open { _ in } == 0)
        #expect(open { $0.entries = 32 } == -EINVAL)
        #expect(open { $0.entries = 100 } == -EINVAL)
        #expect(open { $0.entries = 8192 } == -EINVAL)
        #expect(open { $0.pool_count = 8 } == -EINVAL)
        #expect(open { $0.pool_count = 65536 } == -EINVAL)
        #expect(open { $0.pool_bytes = 511 } == -EINVAL)
        #expect(open { $0.pool_bytes = 65537 } == -EINVAL)
        #expect(open { $0.driver = ring_driver(3) } == -EINVAL)
    }

    @Test(arguments: Driver.here) func descriptorThatIsNotOpenFailsInItsCompletion(driver: Driver) throws {
        let ring = try TestRing(driver)
        let never = Socket(900_000)  // Above every limit here, so never open.
        defer { withExtendedLifetime(never) {} }
        ring.receivePooled(never, 1)
        ring.send(never, Memory("x"), 2)
        ring.watchHangup(never, 3)
        let failed = try ring.collect(3)
        #expect(failed.values.allSatisfy { $0.result == -EBADF })
        ring.readable(never.fd, 4)
        #expect(try ring.result(of: 4) == -EBADF)
        ring.accept(never, 5)
        #expect(try ring.result(of: 5) == -EBADF)
    }
}
