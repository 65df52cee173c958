import Glibc

/// One connection through the relay: the tele client's socket, the tele server's, and what is on the way
/// between.
///
///     carrying ──forget──▶ forgotten: both sides are read, nothing is passed on, neither hears of the other's end
struct RelayPair {
    private struct Half {
        /// -1 once closed.
        var descriptor: Int32
        /// What the other side sent and this one has yet to get: `position..<limit` of the piece.
        var piece = [UInt8](repeating: 0, count: RelayPair.pieceByteCount)
        var position = 0
        var limit = 0
        /// The other side has ended; FIN follows the last byte.
        var finishes = false
        var hasFinished = false
        /// This side has ended.
        var isEnded = false
        var isDrained: Bool { position == limit }
    }

    private static let pieceByteCount = 128 << 10
    private var halves: (Half, Half)
    private var isForgotten = false

    init(client: Int32, server: Int32) {
        halves = (Half(descriptor: client), Half(descriptor: server))
    }

    /// A connection that nobody answers.
    init(forgotten descriptor: Int32) {
        halves = (Half(descriptor: descriptor), Half(descriptor: -1))
        isForgotten = true
    }

    var isOver: Bool { halves.0.descriptor < 0 && halves.1.descriptor < 0 }

    /// Two entries for poll, the client's and the server's. Frozen, only what is forgotten is still read.
    func interest(isFrozen: Bool) -> [pollfd] {
        func entry(_ own: Half, _ other: Half) -> pollfd {
            var events: Int32 = 0
            if isForgotten {
                // Once it has ended only its reset is of interest, which poll reports unasked.
                return pollfd(fd: own.descriptor, events: Int16(own.isEnded ? 0 : POLLIN), revents: 0)
            }
            if !isFrozen {
                if !own.isEnded, other.isDrained { events |= POLLIN }
                if !own.isDrained || (own.finishes && !own.hasFinished) { events |= POLLOUT }
            }
            return pollfd(fd: events == 0 ? -1 : own.descriptor, events: Int16(events), revents: 0)
        }
        return [entry(halves.0, halves.1), entry(halves.1, halves.0)]
    }

    mutating func move(_ first: Int16, _ second: Int16) {
        if isForgotten {
            if first != 0 { RelayPair.swallow(&halves.0) }
            if second != 0 { RelayPair.swallow(&halves.1) }
            return
        }
        var isWell = true
        if first != 0 { isWell = RelayPair.read(&halves.0, for: &halves.1) }
        if second != 0, isWell { isWell = RelayPair.read(&halves.1, for: &halves.0) }
        if isWell { isWell = RelayPair.write(&halves.0) && RelayPair.write(&halves.1) }
        let isFinished = halves.0.hasFinished && halves.1.hasFinished
        if !isWell {
            reset()
        } else if isFinished {
            close(halves.0.descriptor)
            close(halves.1.descriptor)
        }
        if !isWell || isFinished { (halves.0.descriptor, halves.1.descriptor) = (-1, -1) }
    }

    /// From now on nothing passes, also not what is on the way.
    mutating func forget() {
        isForgotten = true
    }

    /// Lets go of what was forgotten and has ended, long enough ago that its owner does not listen any more.
    mutating func bury() {
        guard isForgotten else { return }
        for half in [\Self.halves.0, \Self.halves.1] where self[keyPath: half].isEnded {
            close(self[keyPath: half].descriptor)
            self[keyPath: half].descriptor = -1
        }
    }

    /// RST to both sides. The pair is not to be used afterwards.
    func reset() {
        if halves.0.descriptor >= 0 { Loopback.reset(halves.0.descriptor) }
        if halves.1.descriptor >= 0 { Loopback.reset(halves.1.descriptor) }
    }

    /// False when the connection has broken.
    private static func read(_ own: inout Half, for other: inout Half) -> Bool {
        guard !own.isEnded, other.isDrained else { return true }
        let count = other.piece.withUnsafeMutableBytes { recv(own.descriptor, $0.baseAddress, $0.count, 0) }
        if count < 0 { return errno == EAGAIN || errno == EINTR }
        if count == 0 { (own.isEnded, other.finishes) = (true, true) }
        (other.position, other.limit) = (0, count)
        return true
    }

    private static func write(_ own: inout Half) -> Bool {
        while !own.isDrained {
            let count = own.piece.withUnsafeBytes {
                let rest = UnsafeRawBufferPointer(rebasing: $0[own.position..<own.limit])
                return send(own.descriptor, rest.baseAddress, rest.count, Int32(MSG_NOSIGNAL))
            }
            if count < 0 {
                if errno == EINTR { continue }
                return errno == EAGAIN
            }
            own.position += count
        }
        if own.finishes, !own.hasFinished {
            shutdown(own.descriptor, Int32(SHUT_WR))
            own.hasFinished = true
        }
        return true
    }

    /// Reads and throws away. A side that has ended stays open, or its owner would hear of it; what is reset
    /// is gone.
    private static func swallow(_ own: inout Half) {
        withUnsafeTemporaryAllocation(byteCount: pieceByteCount, alignment: 8) { scratch in
            let count = recv(own.descriptor, scratch.baseAddress, scratch.count, 0)
            if count == 0 { own.isEnded = true }
            if count < 0, errno != EAGAIN, errno != EINTR {
                close(own.descriptor)
                own.descriptor = -1
            }
        }
    }
}
