import Glibc
import Synchronization

/// The unreliable network: a TCP relay that the tele client dials instead of the tele server, and that can be
/// told to fail. One thread with one poll loop owns every connection; the demo only leaves a wish and wakes
/// it.
final class FaultRelay: Sendable {
    private enum Wish: Int {
        case carry, blackhole, stall, reset
    }

    let port: UInt16
    private let server: UInt16
    private let listener: Int32
    /// A pipe: the relay's thread reads the bell, the demo pulls the rope.
    private let bell, rope: Int32
    private let wish = Atomic<Int>(Wish.carry.rawValue)
    private let toldCount = Atomic<Int>(0)
    private let doneCount = Atomic<Int>(0)

    /// Relays to the tele server at `server`, which may start to listen later.
    init(to server: UInt16) throws {
        self.server = server
        (listener, port) = try Loopback.listen(backlog: Int32(FaultRelay.backlog))
        Loopback.setNonBlocking(listener)
        (bell, rope) = try Loopback.pipe()
        Loopback.setNonBlocking(bell)
        try Thread.start { [self] in carryForever() }
    }

    /// Returns when the fault is there.
    func begin(_ fault: Fault.Kind) {
        switch fault {
        case .blackhole: tell(.blackhole)
        case .reset: tell(.reset)
        case .stall: tell(.stall)
        }
    }

    /// Returns when bytes pass again.
    func end() { tell(.carry) }

    private func tell(_ wish: Wish) {
        self.wish.store(wish.rawValue, ordering: .releasing)
        let number = toldCount.add(1, ordering: .acquiringAndReleasing).newValue
        var byte: UInt8 = 1
        _ = write(rope, &byte, 1)
        while doneCount.load(ordering: .acquiring) < number { Clock.sleep(0.0002) }
    }

    // MARK: The relay's thread

    private static let backlog = 64

    private func carryForever() {
        var pairs: [RelayPair] = []
        var state = Wish.carry
        var knocks: [Int32] = []
        while true {
            var polled = [pollfd(fd: bell, events: Int16(POLLIN), revents: 0)]
            polled.append(pollfd(fd: state == .carry ? listener : -1, events: Int16(POLLIN), revents: 0))
            for pair in pairs { polled += pair.interest(isFrozen: state != .carry) }
            guard poll(&polled, nfds_t(polled.count), -1) > 0 else { continue }

            if state == .carry, polled[1].revents != 0, let pair = acceptOne() { pairs.append(pair) }
            for index in pairs.indices where 3 + 2 * index < polled.count {
                pairs[index].move(polled[2 + 2 * index].revents, polled[3 + 2 * index].revents)
            }
            pairs.removeAll { $0.isOver }

            guard polled[0].revents != 0 else { continue }
            var rings: UInt64 = 0
            _ = read(bell, &rings, 8)
            let number = toldCount.load(ordering: .acquiring)
            let wanted = Wish(rawValue: wish.load(ordering: .acquiring)) ?? .carry
            change(from: &state, to: wanted, &pairs, &knocks)
            doneCount.store(number, ordering: .releasing)
        }
    }

    private func change(
        from state: inout Wish, to wanted: Wish, _ pairs: inout [RelayPair], _ knocks: inout [Int32]
    ) {
        guard wanted != state else { return }
        state = wanted
        switch wanted {
        case .carry:
            lighten(&knocks, &pairs)
        case .blackhole:
            for index in pairs.indices {
                pairs[index].bury()
                pairs[index].forget()
            }
            darken(&knocks)
        case .stall:
            darken(&knocks)
        case .reset:
            for pair in pairs { pair.reset() }
            pairs = []
            state = .carry
        }
    }

    private func acceptOne() -> RelayPair? {
        guard let client = Loopback.accept(listener) else { return nil }
        Loopback.setNonBlocking(client)
        guard let server = try? Loopback.connect(port: server) else {
            Loopback.reset(client)
            return nil
        }
        Loopback.setNonBlocking(server)
        return RelayPair(client: client, server: server)
    }

    /// Makes new connections fail as in the dark, without root: while the queue of a listener is full, Linux
    /// drops SYNs without an answer (tcp_conn_request in net/ipv4/tcp_input.c). A queue of length 0 is full
    /// with one entry.
    private func darken(_ knocks: inout [Int32]) {
        listen(listener, 0)
        for _ in 0..<2 {
            if let knock = try? Loopback.knock(port: port) { knocks.append(knock) }
        }
    }

    /// Light again. What got into the queue meanwhile was sent into the dark and stays there.
    private func lighten(_ knocks: inout [Int32], _ pairs: inout [RelayPair]) {
        for knock in knocks { Loopback.reset(knock) }
        knocks = []
        while let lost = Loopback.accept(listener) {
            Loopback.setNonBlocking(lost)
            pairs.append(RelayPair(forgotten: lost))
        }
        listen(listener, Int32(FaultRelay.backlog))
    }
}
