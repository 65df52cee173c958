import Glibc
import Loop
import Tunnel
import Wire

/// A carrier on its way to the loop that has its session: its HELLO says which one that is, so it has come and nobody has judged it yet.
struct CarrierTransfer {
    let fd: Int32
    let peer: Address
    /// When it was accepted, in nanoseconds on `Clock`.
    let openedAt: UInt64
    /// Nil: it is plain.
    let channel: SecureChannel?
    /// Plain bytes that have come: HELLO, and what followed at once.
    let bytes: [UInt8]
}

extension Server {
    /// The loop of the process that a HELLO is for. Nil: this one.
    func owner(of hello: Hello) -> Int? {
        guard let member = relay.member else { return nil }
        #if CANARIES
        if Canary.selected == .keepsCarriers { return nil }
        #endif
        // Users of reverse mappings come to the first loop, and so do the sessions that serve them.
        let owner = hello.identity == .none ? hello.origins.isEmpty ? member.number : 0 : member.group.owner(of: hello.identity)
        return owner == member.number ? nil : owner
    }

    /// The carrier goes to another loop, as it is: nothing of it is in flight, and its HELLO, of `length` bytes, has not been taken.
    func pass(_ carrier: Carrier, length: Int, to loop: Int) {
        guard carrier.inFlight.isEmpty, carrier.isClear else { return relay.carriers.lost(carrier, "it spoke too early") }
        var bytes = Array(carrier.block.unread)
        var channel: SecureChannel?
        if let own = carrier.transport.channel {
            // What has come as ciphertext lies in memory of this loop. The start of a record travels in the channel.
            guard let rest = own.openAll(), !own.owes else { return relay.carriers.lost(carrier, "not what the other side sent") }
            bytes += rest
            own.release(relay)
            channel = own
        }
        #if CANARIES
        if Canary.selected == .forgetsEarlyBytes { bytes = Array(bytes.prefix(length)) }
        #endif
        let transfer = CarrierTransfer(fd: carrier.fd, peer: carrier.peer, openedAt: carrier.openedAt, channel: channel, bytes: bytes)
        relay.carriers.letGo(carrier)
        relay.member?.mail.post(.carrier(transfer), to: loop)
    }

    /// A carrier comes from another loop.
    func adopt(_ transfer: CarrierTransfer) {
        let carrier = relay.carriers.add(fd: transfer.fd, peer: transfer.peer, state: .awaitingHello, openedAt: transfer.openedAt)
        carrier.arrivedAt = relay.now
        admit(carrier)
        if let channel = transfer.channel {
            carrier.transport = .secure(channel)
            // Keys may have been read again on the way.
            handleSecured(carrier, channel)
        }
        guard !carrier.isOver else { return }
        relay.carriers.reader.read(carrier, transfer.bytes)
    }
}
