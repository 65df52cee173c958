import CRing
import Glibc
import Logging
import Loop
import Testing
@testable import Relay

/// A client and a server whose rings refuse operations now and then, as a kernel without memory does: everything is asked again,
/// nothing is lost. Debug builds carry the faults.
@Suite(.serialized) struct RingRefusalTests {
    /// Which verbs are refused, counted from the ring's first: in the handshake, in the first bytes, in the bulk.
    private static let refused: [UInt64] = [3, 5, 8, 12, 17, 23, 30, 38, 47, 57, 68, 80, 93, 107, 150, 200]

    /// protocol 5.3
    @Test(arguments: Loop.Driver.allCases.filter { $0 != .auto }, [RING_FAULT_QUEUE, RING_FAULT_WAIT])
    func aRingThatRefusesLosesNothing(driver: Loop.Driver, kind: ring_fault_kind) throws {
        let origin = try Echo()
        let faults: @Sendable () -> Void = {
            for ordinal in RingRefusalTests.refused { _ = ring_fault_fail(nil, kind, ordinal, ENOMEM) }
        }
        let server = try #require(start(.server, driver, input: origin.port, output: 0, faults))
        let client = try #require(start(.client, driver, input: 0, output: server, faults))
        for count in [1, 100_000, 4 << 20] {
            let user = try connected(to: client)
            defer { close(user) }
            #expect(echoes(user, count), "\(count) bytes did not come back as they were")
        }
    }

    /// The plan above reaches the rings: one that refuses everything serves nobody.
    @Test(arguments: Loop.Driver.allCases.filter { $0 != .auto })
    func aRingThatRefusesEverythingServesNobody(driver: Loop.Driver) throws {
        let origin = try Echo()
        let server = try #require(start(.server, driver, input: origin.port, output: 0) {})
        let client = try #require(
            start(.client, driver, input: 0, output: server) {
                _ = ring_fault_fail(nil, RING_FAULT_QUEUE, UInt64(RING_FAULT_EVERY), ENOMEM)
            })
        let user = try connected(to: client)
        defer { close(user) }
        var patience = timeval(tv_sec: 0, tv_usec: 500_000)
        setsockopt(user, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        var byte: UInt8 = 1
        #expect(send(user, &byte, 1, Int32(MSG_NOSIGNAL)) == 1)
        #expect(uninterrupted { recv(user, &byte, 1, 0) } == -1 && errno == EAGAIN)
    }

    // MARK: Both sides

    /// A process on a thread of its own, until the tests end. Returns its port.
    private func start(
        _ role: Configuration.Role, _ driver: Loop.Driver, input: UInt16, output: UInt16,
        _ prepare: @escaping @Sendable () -> Void
    ) -> UInt16? {
        let port = Answer()
        onThread {
            prepare()
            var configuration = Configuration(
                role: role, input: HostPort(host: "127.0.0.1", port: input),
                output: HostPort(host: "127.0.0.1", port: output))
            configuration.driver = driver
            let ending = run(configuration, logger: Logger(label: "refusals") { _ in SwiftLogNoOpLogHandler() }) { name in
                port.give(UInt16(name.split(separator: ":").last!))
            }
            if case .failed = ending { port.give(nil) }
        }
        return port.take()
    }

    private func connected(to port: UInt16) throws -> Int32 {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = loopback(port)
        let failed = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(fd, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
        }
        try #require(failed == 0)
        var patience = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        return fd
    }

    /// Sends a pattern, and reads it back.
    private func echoes(_ fd: Int32, _ count: Int) -> Bool {
        let sent = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
        onThread {
            var offset = 0
            while offset < count {
                let moved = uninterrupted {
                    sent.withUnsafeBytes { send(fd, $0.baseAddress! + offset, min(count - offset, 65536), Int32(MSG_NOSIGNAL)) }
                }
                guard moved > 0 else { return }
                offset += moved
            }
        }
        var received = [UInt8](repeating: 0, count: count)
        var offset = 0
        while offset < count {
            let moved = uninterrupted {
                received.withUnsafeMutableBytes { recv(fd, $0.baseAddress! + offset, count - offset, 0) }
            }
            guard moved > 0 else { return false }
            offset += moved
        }
        return received == sent
    }
}

/// Other tests of this process send signals, which interrupt calls of any thread: a receive with a time-out is not restarted.
private func uninterrupted(_ call: () -> Int) -> Int {
    while true {
        let result = call()
        if result >= 0 || errno != EINTR { return result }
    }
}

private func loopback(_ port: UInt16) -> sockaddr_in {
    sockaddr_in(
        sin_family: sa_family_t(AF_INET), sin_port: port.bigEndian,
        sin_addr: in_addr(s_addr: UInt32(0x7f00_0001).bigEndian), sin_zero: (0, 0, 0, 0, 0, 0, 0, 0))
}

/// An origin that sends back what it gets.
private final class Echo {
    let port: UInt16

    init() throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = loopback(0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let failed = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, length) | listen(listener, 16) | getsockname(listener, $0, &length)
            }
        }
        try #require(failed == 0)
        port = UInt16(bigEndian: address.sin_port)
        onThread {
            while case let fd = Int32(uninterrupted { Int(accept(listener, nil, nil)) }), fd >= 0 {
                onThread {
                    var bytes = [UInt8](repeating: 0, count: 65536)
                    while case let count = uninterrupted({ recv(fd, &bytes, bytes.count, 0) }), count > 0 {
                        var sent = 0
                        while sent < count {
                            let moved = uninterrupted {
                                bytes.withUnsafeBytes { send(fd, $0.baseAddress! + sent, count - sent, Int32(MSG_NOSIGNAL)) }
                            }
                            guard moved > 0 else { break }
                            sent += moved
                        }
                    }
                    close(fd)
                }
            }
        }
    }
}

/// A value that another thread gives, within ten seconds.
private final class Answer: @unchecked Sendable {
    private let ends: [Int32]

    init() {
        var ends: [Int32] = [0, 0]
        pipe(&ends)
        self.ends = ends
    }

    func give(_ port: UInt16?) {
        var value = port ?? 0
        write(ends[1], &value, 2)
    }

    func take() -> UInt16? {
        var waiting = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
        var value: UInt16 = 0
        guard uninterrupted({ Int(poll(&waiting, 1, 10_000)) }) == 1, read(ends[0], &value, 2) == 2, value > 0 else { return nil }
        return value
    }
}

private func onThread(_ body: @escaping @Sendable () -> Void) {
    final class Box { let body: @Sendable () -> Void; init(_ body: @escaping @Sendable () -> Void) { self.body = body } }
    var thread = pthread_t()
    pthread_create(
        &thread, nil,
        { box in
            Unmanaged<Box>.fromOpaque(box!).takeRetainedValue().body()
            return nil
        }, Unmanaged.passRetained(Box(body)).toOpaque())
    pthread_detach(thread)
}
