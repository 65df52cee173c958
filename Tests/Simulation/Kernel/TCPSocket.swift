import Chance
import Glibc

/// TCP as a process and its peer can see it: bytes in order, windows, retransmissions, FIN, RST, an accept queue.
///
///     fresh ─listen─▶ listening                     fresh ─connect─▶ connecting ─SYN, ACK─▶ connected ─▶ over
///
/// What is not modelled: congestion control, simultaneous open, TIME_WAIT.
final class TCPSocket: VirtualFile {
    enum State { case fresh, listening, connecting, connected, over }

    /// The kernel gives up a connect after this many nanoseconds (tcp_syn_retries; TCP_SYNCNT).
    static let connectMaximum: UInt64 = 130_000_000_000

    /// The machine, or the second interface of one (`VirtualKernel.secondInterface`).
    private(set) var host: Int
    private(set) var state = State.fresh
    var local: VirtualKernel.Name
    private(set) var remote: VirtualKernel.Name?
    private var peer: TCPSocket?
    /// Of a test's own, which has no process: called when something changed.
    var program: (() -> Void)?
    private var isProgramDue = false

    // What arrives.
    private var inbox = ByteQueue()
    private var isFinReceived = false
    /// This side connected.
    private var isDialled = false
    private var error: Int32 = 0
    /// Of all bytes that arrived, the places of urgent ones that were not read yet.
    private var urgentMarks: [UInt64] = []
    private var readCount: UInt64 = 0

    // What leaves.
    private var outbox = ByteQueue()
    private var inFlight = 0
    private var unacknowledged = 0
    private var acknowledgedTotal: UInt64 = 0
    private var sentSegments: UInt32 = 0
    private var repeatedSegments: UInt32 = 0
    private var flight = 0
    private var backoff = 0
    private var lastArrival: UInt64 = 0
    private var lastHeard: UInt64 = 0
    private var urgentSent: [UInt64] = []
    private var writtenTotal: UInt64 = 0
    private var sentTotal: UInt64 = 0
    private var isShut = false
    private var isFinSent = false

    // Faults.
    /// Nothing that either side sends arrives any more, although the path is whole: something between them has forgotten the connection.
    var isSwallowed = false
    /// The connection dies when this many bytes more have arrived from this side, and how.
    var diesAfter = Int.max
    var death = Death.reset
    /// What leaves from here takes so many nanoseconds longer than the path's latency: its packets have another way.
    var lag: UInt64 = 0
    /// Changes what arrives from here.
    var tamper: (([ArraySlice<UInt8>]) -> [ArraySlice<UInt8>])?
    /// What has arrived from here, up to `recordMaximum` bytes.
    private(set) var record: [UInt8] = []
    var recordMaximum = 0
    private(set) var arrivedTotal = 0

    /// How a connection ends that the network kills.
    enum Death: Int, CaseIterable {
        /// Both ends hear of it.
        case reset
        /// The sender of the last bytes hears of it at once, the other end later.
        case resetLate
        /// Both ends see the end of the stream, as if the other had closed.
        case closed
        /// Nobody hears of it.
        case silent
        /// The other direction goes on for a while.
        case half
    }

    private var resetsOnClose = false
    private var isOrphan = false
    private var unsentMaximum = Int.max
    private var congestion = "cubic"

    // While listening.
    private var accepted: [TCPSocket] = []
    private var backlog = 0
    /// Of a test's own: takes each connection at once.
    var onAccept: ((TCPSocket) -> Void)?

    init(_ kernel: VirtualKernel, host: Int) {
        self.host = host
        local = VirtualKernel.Name(host: host, port: 0)
        super.init(kernel)
        kernel.made(self)
    }

    /// The run is over: nothing refers to anything any more.
    func dissolve() {
        (peer, program, onAccept, tamper) = (nil, nil, nil, nil)
        accepted = []
    }

    var unread: Int { inbox.count }
    var held: Int { outbox.count + unacknowledged }
    /// Bytes that were not sent even once; those that were lost were.
    var unsent: Int { Int(writtenTotal - sentTotal) }
    var isOver: Bool { state == .over }

    override func changed() {
        super.changed()
        guard program != nil, !isProgramDue else { return }
        isProgramDue = true
        kernel.after(UInt64(kernel.chance.below(20_000))) { [self] in
            isProgramDue = false
            program?()
        }
    }

    override var readiness: Int32 {
        switch state {
        case .fresh: return POLLOUT | POLLHUP
        case .listening: return accepted.isEmpty ? 0 : POLLIN
        case .connecting: return 0
        case .connected, .over: break
        }
        var bits: Int32 = 0
        if !inbox.isEmpty || isFinReceived || error != 0 || state == .over { bits |= POLLIN }
        if room > 0 || error != 0 || state == .over { bits |= POLLOUT }
        if state == .over || (isFinReceived && isShut) { bits |= POLLHUP }
        if error != 0 { bits |= POLLERR }
        return bits
    }

    private func trace(_ words: @autoclosure () -> String) {
        guard Trace.isOn else { return }
        print("\(kernel.time / 1000) µs: socket \(local.host):\(local.port) to \(remote.map { "\($0.host):\($0.port)" } ?? "nobody") \(words())")
    }

    // MARK: Beginnings

    func listen(backlog: Int) -> Int32 {
        guard state == .fresh else { return -EINVAL }
        if local.port == 0 { local.port = kernel.freePort() }
        guard kernel.listeners[local] == nil else { return -EADDRINUSE }
        kernel.listeners[local] = self
        self.backlog = backlog
        state = .listening
        return 0
    }

    func stopListening() {
        guard state == .listening else { return }
        if kernel.listeners[local] === self { kernel.listeners[local] = nil }
        for waiting in accepted { waiting.reset() }
        accepted = []
        state = .over
        changed()
    }

    func takeAccepted() -> TCPSocket? { accepted.isEmpty ? nil : accepted.removeFirst() }

    func connect(to name: VirtualKernel.Name) -> Int32 {
        guard state == .fresh else { return state == .connecting ? -EALREADY : -EISCONN }
        remote = name
        if local.port == 0 { local.port = kernel.freePort() }
        state = .connecting
        isDialled = true
        sendSYN(since: kernel.time, attempt: 0)
        return -EINPROGRESS
    }

    /// What became of the connect, as SO_ERROR and getpeername(2) say it.
    var connectResult: Int32 {
        switch state {
        case .connecting: return -EINPROGRESS
        case .connected: return 0
        case .fresh, .listening, .over:
            defer { error = 0 }
            return error != 0 ? -error : -ENOTCONN
        }
    }

    private func sendSYN(since start: UInt64, attempt: Int) {
        guard state == .connecting, let name = remote else { return }
        guard kernel.time - start < TCPSocket.connectMaximum else { return fail(ETIMEDOUT) }
        let now = kernel.time
        if !kernel.network.isSilent(host, name.host) {
            kernel.at(kernel.network.arrival(host, name.host, 60, now: now, &kernel.chance)) { [self] in receivedSYN(at: name) }
        }
        kernel.after(1_000_000_000) { [self] in sendSYN(since: start, attempt: attempt + 1) }
    }

    /// At the other machine.
    private func receivedSYN(at name: VirtualKernel.Name) {
        guard state == .connecting, peer == nil else { return }
        guard let listener = kernel.listeners[name] else { return answer(name) { [self] in fail(ECONNREFUSED) } }
        guard listener.onAccept != nil || listener.accepted.count < listener.backlog else { return }  // Dropped, and sent again.
        let other = TCPSocket(kernel, host: name.host)
        other.local = name
        other.remote = local
        other.state = .connected
        other.peer = self
        other.lastHeard = kernel.time
        peer = other
        if host != name.host { kernel.connected(self, other) }
        answer(name) { [self] in
            guard state == .connecting else { return other.receivedReset(ECONNRESET) }
            state = .connected
            lastHeard = kernel.time
            changed()
            // The third segment of the handshake: the other side may accept.
            kernel.at(kernel.network.arrival(host, name.host, 52, now: kernel.time, &kernel.chance)) { other.handshakeDone(listener) }
        }
    }

    private func handshakeDone(_ listener: TCPSocket) {
        guard state == .connected else { return }
        guard listener.state == .listening else { return reset() }
        if let onAccept = listener.onAccept { return onAccept(self) }
        listener.accepted.append(self)
        listener.changed()
    }

    private func answer(_ name: VirtualKernel.Name, _ action: @escaping () -> Void) {
        guard !kernel.network.isSilent(name.host, host) else { return }
        kernel.at(kernel.network.arrival(name.host, host, 60, now: kernel.time, &kernel.chance), action)
    }

    // MARK: Sending

    /// Bytes that a send takes now.
    var room: Int { max(0, min(kernel.limits.sendBuffer - held, unsentMaximum == .max ? .max : unsentMaximum - unsent)) }

    /// Bytes, or -errno.
    func send(_ pieces: [ArraySlice<UInt8>]) -> Int {
        guard state != .connecting else { return -Int(EAGAIN) }
        if error != 0 {
            defer { error = 0 }
            return -Int(error)
        }
        guard state == .connected, !isShut else { return -Int(EPIPE) }
        let wanted = pieces.reduce(0) { $0 + $1.count }
        guard room > 0 else { return -Int(EAGAIN) }
        let count = kernel.part(min(wanted, room))
        var left = count
        for piece in pieces where left > 0 {
            let taken = piece.prefix(left)
            outbox.append(taken)
            left -= taken.count
        }
        writtenTotal += UInt64(count)
        pump()
        return count
    }

    /// One byte that the receiver sees as urgent.
    func sendUrgent(_ byte: UInt8) -> Int {
        urgentSent.append(writtenTotal)
        let sent = send([[byte]])
        if sent <= 0 { urgentSent.removeLast() }
        return sent
    }

    func shutdownWriting() {
        isShut = true
        pump()
    }

    /// Puts into the path what the window of the other side has room for.
    private func pump() {
        guard state == .connected, let peer, let remote else { return }
        while inFlight < outbox.count {
            let window = kernel.limits.receiveBuffer - peer.inbox.count - inFlight
            let count = min(outbox.count - inFlight, window, 64 << 10)
            // Silly windows are avoided, by either side (RFC 9293 §3.8.6.2).
            guard count > 0, count >= min(outbox.count - inFlight, 1448, kernel.limits.receiveBuffer / 2) else { break }
            inFlight += count
            sentTotal = max(sentTotal, writtenTotal - UInt64(outbox.count - inFlight))
            sentSegments &+= UInt32((count + 1447) / 1448)
            let arrival = max(lastArrival, arrival(at: remote, count))
            lastArrival = arrival
            let flight = flight
            kernel.at(arrival) { [self] in arrived(count, flight) }
        }
        if isShut, outbox.isEmpty, !isFinSent {
            isFinSent = true
            sendFIN()
        }
    }

    /// When what leaves now is there.
    private func arrival(at name: VirtualKernel.Name, _ count: Int) -> UInt64 {
        kernel.network.arrival(host, name.host, count, now: kernel.time, &kernel.chance) + lag
    }

    private func arrived(_ count: Int, _ flight: Int) {
        guard flight == self.flight, let peer, let remote else { return }
        guard !isSilent(host, remote.host) else { return lost() }
        guard !kernel.network.loses(host, remote.host, &kernel.chance) else { return lost(isNoticed: true) }
        if diesAfter <= count, state == .connected { return die(peer) }
        if diesAfter != .max { diesAfter -= count }
        inFlight -= count
        unacknowledged += count
        let start = writtenTotal - UInt64(outbox.count)
        var pieces = outbox.take(count)
        noteArrived(pieces)
        if let tamper { pieces = tamper(pieces) }
        guard peer.state == .connected, !peer.isOrphan else { return state == .connected ? answerReset() : () }
        for piece in pieces { peer.inbox.append(piece) }
        while let mark = urgentSent.first, mark < start + UInt64(count) { peer.urgentMarks.append(urgentSent.removeFirst()) }
        peer.lastHeard = kernel.time
        acknowledge(count)
        peer.changed()
        pump()
    }

    /// The connection dies before a byte has arrived from here.
    func dieAtOnce() {
        guard let peer else { return }
        diesAfter = 0
        kernel.after(0) { [self] in die(peer) }
    }

    private func noteArrived(_ pieces: [ArraySlice<UInt8>]) {
        for piece in pieces {
            arrivedTotal += piece.count
            if record.count < recordMaximum { record += piece.prefix(recordMaximum - record.count) }
        }
    }

    /// The first bytes of a segment arrive, then the connection dies; the acknowledgment is lost.
    private func die(_ peer: TCPSocket) {
        trace("dies \(diesAfter) bytes from here: \(death)")
        let pieces = outbox.take(diesAfter)
        noteArrived(pieces)
        for piece in pieces { peer.inbox.append(piece) }
        flight += 1
        diesAfter = .max
        let later = UInt64(kernel.chance.skewed(300_000)) * 1000
        switch death {
        case .reset:
            peer.receivedReset(ECONNRESET)
            receivedReset(ECONNRESET)
        case .resetLate:
            receivedReset(ECONNRESET)
            kernel.after(later) { peer.receivedReset(ECONNRESET) }
        case .closed:
            for end in [peer, self] {
                end.receivedEnd()
                kernel.after(later) { end.receivedReset(ECONNRESET) }
            }
        case .silent:
            isSwallowed = true
            peer.changed()
        case .half:
            peer.receivedReset(ECONNRESET)
            kernel.after(later) { [self] in receivedReset(ECONNRESET) }
        }
    }

    /// The network says that the other end has closed, and will answer what is sent to it by RST.
    private func receivedEnd() {
        isFinReceived = true
        isSwallowed = true
        changed()
    }

    /// The acknowledgment; one that is lost is followed by a later one.
    private func acknowledge(_ count: Int) {
        guard let remote else { return }
        guard !isSilent(remote.host, host) else {
            kernel.after(1_000_000_000) { [self] in if state == .connected { acknowledge(count) } }
            return
        }
        kernel.at(kernel.network.arrival(remote.host, host, 52, now: kernel.time, &kernel.chance) + lag) { [self] in
            guard state == .connected else { return }
            unacknowledged -= count
            acknowledgedTotal += UInt64(count)
            backoff = 0
            lastHeard = kernel.time
            pump()
            // The kernel wakes a writer when a third of the buffer is free (sk_stream_is_writeable).
            if room >= kernel.limits.sendBuffer / 3 { changed() }
        }
    }

    /// Segments are lost; they go out again after the retransmission time-out, which doubles up to a second. `isNoticed`: the other side misses
    /// them among others, so it takes a round trip only.
    private func lost(isNoticed: Bool = false) {
        flight += 1
        inFlight = 0
        guard state == .connected else { return }
        lastArrival = 0
        if !isNoticed { backoff += 1 }
        repeatedSegments &+= 1
        let flight = flight
        let pause =
            isNoticed && backoff == 0 ? 2 * kernel.network[host, remote?.host ?? host].latency : min(1_000_000_000, 200_000_000 << UInt64(min(backoff, 3)))
        kernel.after(pause) { [self] in if flight == self.flight { pump() } }
    }

    private func sendFIN() {
        guard let peer, let remote else { return }
        guard !isSilent(host, remote.host) else {
            kernel.after(1_000_000_000) { [self] in if state == .connected { sendFIN() } }
            return
        }
        let arrival = max(lastArrival, kernel.network.arrival(host, remote.host, 52, now: kernel.time, &kernel.chance))
        lastArrival = arrival
        kernel.at(arrival) { [self] in
            guard peer.state == .connected, state == .connected else { return }
            guard !isSilent(host, remote.host) else { return sendFIN() }
            guard !peer.isOrphan || peer.inbox.isEmpty else { return }
            peer.isFinReceived = true
            peer.lastHeard = kernel.time
            peer.changed()
            // Both halves have ended, and nothing is open: the connection is over on both sides.
            if peer.isOrphan, peer.isFinSent, isOrphan { peer.end(); end() }
        }
    }

    // MARK: Receiving

    /// `memory` nil: whether there is anything. Bytes, 0 at the end, or -errno.
    func receive(_ memory: UnsafeMutableRawPointer?, _ count: Int) -> Int {
        if state == .connecting || state == .fresh { return state == .fresh ? -Int(ENOTCONN) : -Int(EAGAIN) }
        if !inbox.isEmpty {
            guard let memory else { return 1 }
            let moved = inbox.read(into: memory, kernel.part(min(count, inbox.count)))
            noteRead(moved)
            return moved
        }
        return emptyResult
    }

    /// As splice(2) takes bytes: not beyond an urgent one, in front of which it says 0, as at the end.
    func splice(into pipe: VirtualPipe, _ count: Int) -> Int {
        guard !inbox.isEmpty else { return state == .connecting ? -Int(EAGAIN) : emptyResult }
        var most = min(count, inbox.count)
        if let mark = urgentMarks.first {
            most = min(most, Int(mark - readCount))
            if most == 0 { return 0 }
        }
        guard pipe.room > 0 else { return -Int(EAGAIN) }
        let moved = pipe.put(inbox.first(kernel.part(most)))
        guard moved > 0 else { return -Int(EAGAIN) }
        _ = inbox.take(moved)
        noteRead(moved)
        return moved
    }

    private var emptyResult: Int {
        if error != 0 {
            defer { error = 0 }
            return -Int(error)
        }
        return isFinReceived || state == .over ? 0 : -Int(EAGAIN)
    }

    private func noteRead(_ count: Int) {
        readCount += UInt64(count)
        while let mark = urgentMarks.first, mark < readCount { urgentMarks.removeFirst() }
        // The window opens: the sender hears of it.
        if let peer, let remote, count > 0 {
            kernel.at(kernel.network.arrival(host, remote.host, 52, now: kernel.time, &kernel.chance)) { peer.pump() }
        }
    }

    // MARK: Ends

    override func close() {
        switch state {
        case .fresh, .over: break
        case .listening: return stopListening()
        case .connecting: end()
        case .connected:
            guard !resetsOnClose, inbox.isEmpty else { return reset() }
            isOrphan = true
            shutdownWriting()
        }
    }

    /// RST: what was not sent is discarded, the other side is told.
    func reset() {
        guard state == .connected || state == .connecting else { return }
        let wasConnected = state == .connected
        trace("is reset here, \(inbox.count) bytes unread")
        // What is on its way arrives before the RST; the rest is discarded, unless a middlebox has it already.
        state = .over
        if let remote, remote.host != host, wasConnected, kernel.limits.hasMiddlebox { return drainMiddlebox() }
        var onTheWay = ByteQueue()
        for piece in outbox.take(inFlight) { onTheWay.append(piece) }
        outbox = onTheWay
        guard wasConnected, let peer, let remote, !isSilent(host, remote.host) else { return }
        kernel.at(max(lastArrival, kernel.network.arrival(host, remote.host, 52, now: kernel.time, &kernel.chance))) { [self] in
            if !isSilent(host, remote.host) { peer.receivedReset(ECONNRESET) }
        }
    }

    /// Whatever was sent arrives, however long the path is silent, and then the RST.
    private func drainMiddlebox() {
        guard let peer, let remote, peer.state == .connected else { return }
        guard !isSilent(host, remote.host) else {
            return kernel.after(200_000_000) { [self] in drainMiddlebox() }
        }
        inFlight = 0
        flight += 1
        let pieces = outbox.take(outbox.count)
        kernel.at(max(lastArrival, kernel.network.arrival(host, remote.host, 52, now: kernel.time, &kernel.chance))) {
            guard peer.state == .connected, !peer.isOrphan else { return }
            for piece in pieces { peer.inbox.append(piece) }
            peer.changed()
            peer.kernel.after(1000) { peer.receivedReset(ECONNRESET) }
        }
    }

    /// Whether what is sent from one host to the other on this connection is lost.
    private func isSilent(_ from: Int, _ to: Int) -> Bool {
        isSwallowed || peer?.isSwallowed == true || kernel.network.isSilent(from, to)
    }

    /// The other side knows nothing of this connection.
    private func answerReset() {
        guard let remote, !isSilent(remote.host, host) else { return lost() }
        kernel.at(kernel.network.arrival(remote.host, host, 52, now: kernel.time, &kernel.chance)) { [self] in receivedReset(ECONNRESET) }
    }

    /// RST came, or the network says that there is no way.
    func receivedReset(_ reason: Int32) {
        guard state == .connected || state == .connecting else { return }
        fail(isFinReceived ? EPIPE : reason)
    }

    private func fail(_ reason: Int32) {
        trace("ends with error \(reason)")
        end()
        error = reason
        changed()
    }

    private func end() {
        state = .over
        flight += 1
        outbox.removeAll()
        (inFlight, unacknowledged) = (0, 0)
    }

    // MARK: Options

    func set(_ level: Int32, _ option: Int32, _ value: UnsafeRawBufferPointer) {
        switch (level, option) {
        case (SOL_SOCKET, 62) where value.load(as: Int32.self) == 2:  // SO_BINDTOIFINDEX
            host = VirtualKernel.secondInterface(of: host)
            local = VirtualKernel.Name(host: host, port: 0)
        case (SOL_SOCKET, SO_LINGER): resetsOnClose = value.count >= 8 && value.load(as: Int32.self) != 0
        case (Int32(IPPROTO_TCP), 25): unsentMaximum = Int(value.load(as: UInt32.self))  // TCP_NOTSENT_LOWAT
        case (Int32(IPPROTO_TCP), TCP_CONGESTION): congestion = String(decoding: value, as: UTF8.self)
        default: break
        }
    }

    func get(_ level: Int32, _ option: Int32) -> [UInt8]? {
        func bytes(_ value: Int32) -> [UInt8] { withUnsafeBytes(of: value, Array.init) }
        switch (level, option) {
        case (SOL_SOCKET, SO_ERROR):
            defer { error = 0 }
            return bytes(error)
        case (SOL_SOCKET, SO_ACCEPTCONN): return bytes(state == .listening ? 1 : 0)
        case (SOL_SOCKET, SO_SNDBUF): return bytes(Int32(clamping: kernel.limits.sendBuffer / 3 * 4))
        case (Int32(IPPROTO_TCP), TCP_CONGESTION): return Array(congestion.utf8) + [0]
        case (Int32(IPPROTO_TCP), TCP_INFO): return info
        default: return nil
        }
    }

    /// The kernel's number of it: ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK; CLOSE.
    private var tcpState: UInt64 {
        switch (state, isShut, isFinReceived) {
        case (.connected, false, false): 1
        case (.connected, true, false): 4
        case (.connected, false, true): 8
        case (.connected, true, true): 9
        default: 7
        }
    }

    /// struct tcp_info of include/uapi/linux/tcp.h, as far as it is read.
    private var info: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 160)
        func put(_ value: UInt64, at offset: Int, _ count: Int) {
            for index in 0..<count { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
        }
        let trip = remote.map { kernel.network[host, $0.host].latency + kernel.network[$0.host, host].latency } ?? 0
        let segments = state == .connected ? (sentTotal - acknowledgedTotal + 1447) / 1448 : 0
        put(tcpState, at: 0, 1)
        put(UInt64(min(backoff, 15)), at: 4, 1)
        put(1448, at: 16, 4)
        put(segments, at: 24, 4)
        put((kernel.time - min(kernel.time, lastHeard)) / 1_000_000, at: 56, 4)
        put(max(1, trip / 1000), at: 68, 4)
        put(max(1, trip / 4000), at: 72, 4)
        put(200, at: 80, 4)
        put(UInt64(repeatedSegments), at: 100, 4)
        // A SYN and a FIN count as bytes (`TransferCounts`).
        put(acknowledgedTotal + (isDialled ? 1 : 0) + (isShut ? 1 : 0), at: 120, 8)
        put(readCount + UInt64(inbox.count) + (isFinReceived ? 1 : 0), at: 128, 8)
        put(UInt64(unsent), at: 144, 4)
        put(max(1, trip / 1000), at: 148, 4)
        put(UInt64(sentSegments), at: 156, 4)
        return bytes
    }
}
