import Chance
import Glibc

/// One end of a user's connection: the user's own socket, or the origin's. It writes a pattern that names each byte, and judges what it
/// reads.
final class Talker {
    enum State: String {
        case connecting, open
        /// Both halves ended in order, and everything arrived.
        case over
        /// It reset the connection, as its plan has it.
        case didReset
        /// It saw a reset, or was refused.
        case wasReset
    }

    unowned let world: World
    let side: Side
    /// An origin knows it later.
    private(set) var client: Int
    /// An origin knows it when the first bytes have come.
    private(set) var number = -1
    let socket: TCPSocket
    private(set) var state = State.connecting
    weak var other: Talker?

    private(set) var written = 0
    private(set) var received = 0
    private(set) var isFinished = false
    private var script = Script()
    private var sawEnd = false
    /// When bytes last came.
    private(set) var heardAt: UInt64
    private var mayRead = true, mayWrite = true
    private var preamble: [UInt8] = []
    /// What it asks of a listener of kind socks5, all at once, before anything else; and what is missing of the answer (protocol 6.16).
    private var request: [UInt8] = []
    private var answerLeft = 0

    /// What it does, as far as the other side lets it.
    struct Script {
        var total = 0
        var chunk = 1
        /// Nanoseconds between two writes, two reads; 0: at once.
        var writeGap: UInt64 = 0
        var readGap: UInt64 = 0
        var resetsAtWritten = Int.max
        var resetsAtReceived = Int.max
        var stopsReadingAt = Int.max
        /// Nanoseconds after it was connected.
        var resetsAfter: UInt64 = 0
        var urgentAt = Int.max
    }

    /// Bytes that say whose connection it is, before the pattern: the user's number, and a hash of it.
    static let preambleByteCount = 8

    private static func preamble(_ number: Int) -> [UInt8] {
        let word = UInt64(number) | Chance.mixed(UInt64(number)) << 32
        return (0..<preambleByteCount).map { UInt8(truncatingIfNeeded: word >> (8 * $0)) }
    }

    /// To the origin, by its number: SOCKS5 without a password, CONNECT.
    private static let request: [UInt8] = [5, 1, 0, 5, 1, 0, 1, 10, 0, 0, UInt8(World.originHost), 0, UInt8(World.originPort)]
    private static let answerByteCount = 2 + 10

    /// A user's.
    init(_ world: World, number: Int, client: Int, socket: TCPSocket, asks: Bool = false) {
        self.world = world
        self.number = number
        self.client = client
        self.socket = socket
        side = .client
        heardAt = world.kernel.time
        preamble = Talker.preamble(number)
        if asks { (request, answerLeft) = (Talker.request, Talker.answerByteCount) }
        script = world.plan.script(number, side, &world.kernel.chance)
        socket.program = { [unowned self] in act() }
    }

    /// An origin's, which was accepted.
    init(_ world: World, accepted socket: TCPSocket) {
        self.world = world
        self.socket = socket
        client = -1
        side = .server
        state = .open
        heardAt = world.kernel.time
        socket.program = { [unowned self] in act() }
        act()
    }

    /// Nobody knows yet where it wants to go.
    var isAsking: Bool { answerLeft > 0 }
    var isEnded: Bool { state == .over || state == .didReset || state == .wasReset }
    /// It will not read on; somebody has to end it.
    var hasStopped: Bool { number >= 0 && received >= script.stopsReadingAt }
    var description: String {
        "\(side) \(number) \(state.rawValue): wrote \(written) of \(script.total)\(isFinished ? ", finished" : ""), received \(received)"
            + "\(sawEnd ? ", saw the end" : "")\(hasStopped ? ", stopped reading" : "")"
    }

    // MARK: Acting

    private func act() {
        guard !isEnded else { return }
        if state == .connecting {
            let result = socket.connectResult
            if result == -EINPROGRESS { return }
            guard result == 0 else { return refused(-result) }
            state = .open
            if script.resetsAfter > 0 { world.kernel.after(script.resetsAfter) { [self] in abandon() } }
        }
        if !request.isEmpty {
            let sent = socket.send([request[...]])
            if sent > 0 { request.removeFirst(sent) } else if sent != -Int(EAGAIN) { return lost(Int32(-sent)) }
        }
        if request.isEmpty, !preamble.isEmpty, side == .client {
            let sent = socket.send([preamble[...]])
            if sent > 0 { preamble.removeFirst(sent) } else if sent != -Int(EAGAIN) { return lost(Int32(-sent)) }
        }
        if mayRead { read() }
        if !isEnded, mayWrite, number >= 0, preamble.isEmpty || side == .server { write() }
        if !isEnded, isFinished, sawEnd {
            state = .over
            socket.close()
            world.ended(self)
        }
    }

    private func read() {
        while answerLeft > 0, !isEnded {
            let count = socket.receive(world.scratch.baseAddress, answerLeft)
            if count == -Int(EAGAIN) { return }
            guard count > 0 else { return count == 0 ? world.fail("a request ended without an answer: \(description)") : lost(Int32(-count)) }
            // Each half of the answer begins with the version, and says that all is well.
            for (index, byte) in world.scratch[..<count].enumerated() {
                let place = Talker.answerByteCount - answerLeft + index
                if place < 4, byte != [5, 0, 5, 0][place] { return world.fail("a request was refused: \(description)") }
            }
            answerLeft -= count
        }
        while !sawEnd, !hasStopped, !isEnded {
            let most = min(world.scratch.count, script.stopsReadingAt - received, max(1, script.resetsAtReceived - received))
            let count = socket.receive(world.scratch.baseAddress, number < 0 ? Talker.preambleByteCount - preamble.count : most)
            if count == -Int(EAGAIN) { return }
            guard count >= 0 else { return lost(Int32(-count)) }
            guard count > 0 else { return end() }
            if number < 0 {
                preamble += world.scratch[..<count]
                if preamble.count == Talker.preambleByteCount { identify() }
                continue
            }
            judge(count)
            if received >= script.resetsAtReceived { return reset() }
            guard script.readGap == 0 else {
                mayRead = false
                world.kernel.after(script.readGap) { [self] in
                    mayRead = true
                    act()
                }
                return
            }
        }
    }

    private func identify() {
        let told = preamble.prefix(4).reversed().reduce(0) { $0 << 8 | Int($1) }
        guard let user = world.user(told), preamble == Talker.preamble(told) else {
            return world.plan.isBelieved ? reset() : world.fail("an origin was connected by user \(told), who does not exist")
        }
        guard user.other == nil else {
            return world.isLied(to: user) ? reset() : world.fail("two connections to the origin for user \(told)")
        }
        client = user.client
        number = told
        script = world.plan.script(number, side, &world.kernel.chance)
        other = user
        user.other = self
    }

    /// Each byte once and in order, whatever was replayed (protocol 1.1, 3.10, 5.1, 5.6, 5.7, 5.8, 5.10, 5.12).
    private func judge(_ count: Int) {
        guard !world.isLied(to: self) else { return received += count }
        let bytes = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(world.scratch)[..<count])
        let pattern = Pattern(stream: number, from: side.other)
        if let index = pattern.firstWrong(bytes, at: UInt64(received)) {
            let wrong = UnsafeRawBufferPointer(rebasing: bytes[index...].prefix(Pattern.tellingByteCount))
            let place =
                wrong.allSatisfy { $0 == 0 } ? "zeros" : pattern.place(of: wrong, below: other?.written ?? 0).map { "those of offset \($0)" } ?? "of no offset"
            return world.fail("wrong byte for \(description), offset \(received + index): \(place)")
        }
        received += count
        heardAt = world.kernel.time
        world.delivered += count
        if let other, received > other.written { world.fail("more bytes than were written for \(description)") }
    }

    private func write() {
        while !isFinished, !isEnded {
            if written >= script.resetsAtWritten { return reset() }
            guard written < script.total else {
                isFinished = true
                return socket.shutdownWriting()
            }
            let sent: Int
            if written == script.urgentAt {
                sent = socket.sendUrgent(Pattern.byte(stream: number, from: side, at: written))
                if sent > 0 { script.urgentAt = .max }
            } else {
                let count = min(script.chunk, script.total - written, max(1, script.resetsAtWritten - written), script.urgentAt - written)
                var bytes = [UInt8](repeating: 0, count: count)
                bytes.withUnsafeMutableBytes { Pattern(stream: number, from: side).fill($0, from: UInt64(written)) }
                sent = socket.send([bytes[...]])
            }
            if sent == -Int(EAGAIN) { return }
            guard sent > 0 else { return lost(Int32(-sent)) }
            written += sent
            guard script.writeGap == 0 else {
                mayWrite = false
                world.kernel.after(script.writeGap) { [self] in
                    mayWrite = true
                    act()
                }
                return
            }
        }
    }

    // MARK: Ends

    /// Only behind the last byte, and never for a connection or a session that was lost (protocol 6.5, 6.6, 11.6).
    private func end() {
        sawEnd = true
        guard !world.isLied(to: self) else { return }
        guard let other else { return world.fail("a connection that never reached the other side looks like a clean end: \(description)") }
        if !other.isFinished || received != other.written {
            world.fail("a lost connection looks like a clean end: \(description); the other: \(other.description)")
        }
    }

    private func reset() {
        state = .didReset
        socket.reset()
        world.ended(self)
    }

    /// The world ends a connection whose reader has stopped.
    func abandon() { if !isEnded { reset() } }

    private func refused(_ error: Int32) {
        state = .wasReset
        world.judgeLoss(self, "cannot connect (\(error))")
        socket.close()
        world.ended(self)
    }

    private func lost(_ error: Int32) {
        state = .wasReset
        if other?.state != .didReset { world.judgeLoss(self, "reset (\(error))") }
        socket.close()
        world.ended(self)
    }
}

extension Pattern {
    static func byte(stream: Int, from side: Side, at offset: Int) -> UInt8 {
        var byte: UInt8 = 0
        withUnsafeMutableBytes(of: &byte) { Pattern(stream: stream, from: side).fill($0, from: UInt64(offset)) }
        return byte
    }
}
