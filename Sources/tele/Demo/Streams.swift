import Glibc

/// The connections that the demo carries: bulk both ways on several, and one on which somebody types, also
/// both ways. The driver's end dials the tele client; the origin's end is what the tele server dials. Every
/// connection begins with its number, so that the origin knows which it has.
final class Streams: Sendable {
    struct Stream: Sendable {
        /// Driver to origin, and back.
        let up, down: Flow
    }

    private static let bulkCount = 4
    private static let bulkByteRate = 4 << 20
    private static let keystrokeInterval = 0.05

    let all: [Stream]
    let originPort: UInt16
    private let listener: Int32

    /// Listens as the origin. `seed` tells this run's bytes from any other's.
    init(seed: UInt64) throws {
        func stream(_ number: Int, _ name: String, _ pace: Flow.Pace) -> Stream {
            let base = seed &+ UInt64(number) &* 0x1_0000_0001
            return Stream(
                up: Flow("\(name) up", seed: base, pace: pace),
                down: Flow("\(name) down", seed: ~base, pace: pace))
        }
        all =
            (0..<Streams.bulkCount).map { stream($0, "stream \($0 + 1)", .bulk(Streams.bulkByteRate)) }
            + [stream(Streams.bulkCount, "keystrokes", .keystrokes(Streams.keystrokeInterval))]
        (listener, originPort) = try Loopback.listen(backlog: 64)
        try Thread.start { [self] in acceptForever() }
    }

    var flows: [Flow] { all.flatMap { [$0.up, $0.down] } }
    var keystrokes: [Flow] { flows.filter { if case .keystrokes = $0.pace { true } else { false } } }

    /// Opens every connection to the tele client and starts to send and to compare.
    func open(through port: UInt16) throws {
        for (number, stream) in all.enumerated() {
            let descriptor = try Loopback.connect(port: port)
            var header = UInt64(number).littleEndian
            guard Glibc.send(descriptor, &header, 8, Int32(MSG_NOSIGNAL)) == 8 else {
                throw Loopback.Fault("send")
            }
            try Thread.start { stream.up.send(to: descriptor) }
            try Thread.start { stream.down.receive(from: descriptor) }
        }
    }

    /// The origin. Its threads and descriptors live as long as the process, which ends with the demo.
    private func acceptForever() {
        while true {
            guard let descriptor = Loopback.accept(listener) else {
                Clock.sleep(0.01)
                continue
            }
            do {
                try Thread.start { [self] in serve(descriptor) }
            } catch {
                Loopback.reset(descriptor)
            }
        }
    }

    private func serve(_ descriptor: Int32) {
        var header: UInt64 = 0
        guard recv(descriptor, &header, 8, Int32(MSG_WAITALL)) == 8,
            let number = Int(exactly: UInt64(littleEndian: header)), all.indices.contains(number)
        else { return Loopback.reset(descriptor) }
        let stream = all[number]
        do {
            try Thread.start { stream.down.send(to: descriptor) }
            stream.up.receive(from: descriptor)
        } catch {
            Loopback.reset(descriptor)
        }
    }
}
