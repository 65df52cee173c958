import CSlab
import CTLS
import Glibc
import Time

/// The TLS of one carrier: ciphertext on its way in and out, in blocks of the arena. Slabs elsewhere keep plaintext; what
/// lies here dies with the carrier.
///
/// An idle channel holds a page to receive into and no more. One whose bytes come fast receives into a slab.
final class SecureChannel {
    enum Opened { case bytes(Int), more, ended, failed(String) }
    enum Handshake { case more, complete, failed(String) }

    private let channel: OpaquePointer
    private(set) var isSecured = false

    private var inBlock: UnsafeMutableRawPointer?
    private var inCapacity = 0
    private var arrivedAt: UInt64 = 0
    /// Receives in a row with less than a moment between them.
    private var quickArrivals = 0
    private var keepsBuffers = false

    private var outBlock: UnsafeMutableRawPointer?
    private var outSent = 0
    private var outCount = 0
    /// Plain bytes in what is on its way out.
    private var outPlain = 0

    /// Owns the channel from now on.
    init(_ channel: OpaquePointer) { self.channel = channel }

    deinit { tls_channel_close(channel) }

    /// The blocks go home; nothing reads or writes them any more.
    func release(_ relay: RelayProcess) {
        releaseIn(relay)
        releaseOut(relay)
    }

    /// The peer's authenticated identity.
    var peer: String { String(cString: tls_peer(channel)) }

    /// What only this connection's ends know: proofs are bound to it.
    var binding: [UInt8]? {
        var material = [UInt8](repeating: 0, count: Int(TLS_EXPORTER_BYTES))
        return tls_exporter(channel, &material) == 0 ? material : nil
    }

    /// Whether the peer's certificate would be accepted by credentials that were read again.
    func isTrusted(by context: OpaquePointer) -> Bool { tls_is_trusted(channel, context) }

    private var reason: String { String(cString: tls_reason(channel)).lowercased() }

    // MARK: In

    /// Where ciphertext may arrive. Nil: no memory.
    func target(_ relay: RelayProcess, isHot: Bool) -> UnsafeMutableRawBufferPointer? {
        assert(!hasUnread, "a receive into what is not read yet")
        let capacity = isHot ? Int(SLAB_BYTES) : Int(PAGE_BYTES)
        if inCapacity != capacity {
            releaseIn(relay)
            guard let block = isHot ? arena_slab(relay.arena) : arena_page(relay.arena) else { return nil }
            relay.budget.arm(capacity)
            inBlock = block
            inCapacity = capacity
        }
        return UnsafeMutableRawBufferPointer(start: inBlock, count: inCapacity)
    }

    /// Ciphertext that arrived elsewhere is copied to where `arrived` expects it. False: no memory.
    func take(_ bytes: UnsafeRawPointer, _ count: Int, _ relay: RelayProcess) -> Bool {
        guard let target = target(relay, isHot: count > Int(PAGE_BYTES)) else { return false }
        memcpy(target.baseAddress!, bytes, count)
        return true
    }

    /// Something comes at least every ten seconds, a PING if nothing else: so an idle channel gives its buffers back. One that has only
    /// shaken hands never had any: many of those at a time would leave holes that the process cannot give back.
    func arrived(_ count: Int, now: UInt64) {
        // The loop that had the channel before may have read the clock later.
        quickArrivals = now < arrivedAt + Policy.hotMaximum.nanoseconds ? quickArrivals + 1 : 0
        let isBusy = quickArrivals >= Policy.busyArrivals
        if isBusy != keepsBuffers { tls_keep_buffers(channel, isBusy) }
        keepsBuffers = isBusy
        arrivedAt = now
        tls_feed(channel, inBlock, count)
    }

    /// Ciphertext that arrived waits to be taken.
    var hasUnread: Bool { tls_fed(channel) > 0 }

    func handshake() -> Handshake {
        switch tls_handshake(channel) {
        case 1:
            isSecured = true
            return .complete
        case 0: return .more
        default: return .failed(reason)
        }
    }

    /// Plain bytes into `room`.
    func open(_ room: UnsafeMutableRawBufferPointer) -> Opened {
        switch tls_open(channel, room.baseAddress, room.count) {
        case let count where count > 0: .bytes(count)
        case 0: .more
        case -2: .ended
        default: .failed(reason)
        }
    }

    /// All plain bytes of what has arrived. Nil: it has ended, or cannot be read.
    func openAll() -> [UInt8]? {
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: Int(PAGE_BYTES), alignment: 8)
        defer { room.deallocate() }
        var all: [UInt8] = []
        while true {
            switch open(room) {
            case .bytes(let count): all += room[..<count]
            case .more: return all
            case .ended, .failed: return nil
            }
        }
    }

    /// Nothing is received into it, and nothing in it is unread.
    func releaseIn(_ relay: RelayProcess) {
        guard let block = inBlock else { return }
        tls_feed(channel, nil, 0)
        relay.budget.disarm(inCapacity)
        arena_release(relay.arena, block)
        inBlock = nil
        inCapacity = 0
    }

    // MARK: Out

    /// The channel itself has something to say.
    var owes: Bool { tls_owed(channel) > 0 }

    /// Seals the bytes of the iovecs as far as a slab reaches. False: they could not be.
    func seal(_ iovecs: UnsafePointer<iovec>, _ count: Int, _ relay: RelayProcess) -> Bool {
        assert(outSent == outCount, "sealed before the last was sent")
        if outBlock == nil { outBlock = arena_slab(relay.arena) }
        guard let block = outBlock else { return false }
        let sealed = tls_seal(channel, iovecs, count, block, Int(SLAB_BYTES), &outPlain)
        guard sealed >= 0 else { return false }
        outSent = 0
        outCount = sealed
        return true
    }

    /// What is to be sent next.
    var outgoing: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: outBlock.map { $0 + outSent }, count: outCount - outSent)
    }

    /// The kernel took `count` bytes of it. Nil: more is to be sent; else how many plain bytes have left.
    func sent(_ count: Int, _ relay: RelayProcess) -> Int? {
        outSent += count
        guard outSent == outCount else { return nil }
        let plain = outPlain
        releaseOut(relay)
        return plain
    }

    private func releaseOut(_ relay: RelayProcess) {
        if let block = outBlock { arena_release(relay.arena, block) }
        outBlock = nil
        (outSent, outCount, outPlain) = (0, 0, 0)
    }
}
