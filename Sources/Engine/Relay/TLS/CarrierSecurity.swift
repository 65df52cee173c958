import Glibc
import Loop

/// Carriers with TLS: the handshake, from ciphertext to plain bytes, and what is sealed on its way out.
final class CarrierSecurity {
    unowned(unsafe) private let relay: RelayProcess

    init(_ relay: RelayProcess) { self.relay = relay }

    private var carriers: Carriers { relay.carriers }

    /// The client's part of the handshake begins; the server's begins with the first bytes.
    func begin(_ carrier: Carrier, _ channel: SecureChannel) {
        carrier.transport = .secure(channel)
        carrier.state = .securing
        carriers.reader.arm(carrier)
        open(carrier, channel)
    }

    /// Goes on with the handshake, or reads what can be read.
    func open(_ carrier: Carrier, _ channel: SecureChannel) {
        if !channel.isSecured {
            switch channel.handshake() {
            case .more: return sendOwed(carrier)
            case .failed(let reason): return turnAway(carrier, reason)
            case .complete: relay.host.handleSecured(carrier, channel)
            }
        }
        while !carrier.isOver, !carrier.isUnfinished {
            guard carriers.reader.makeRoom(carrier, for: carrier.isHot ? 0 : Policy.poolByteCount) else { return carriers.retryLater(carrier) }
            switch channel.open(carrier.block.room) {
            case .bytes(let count):
                guard !carrier.isSilent else { return carriers.broken(carrier) }
                carrier.block.filled += count
                carriers.reader.read(carrier)
            case .more:
                releaseIdleBlock(carrier)
                return sendOwed(carrier)
            case .ended:
                return carriers.ended(carrier) ? () : carriers.lost(carrier, "closed by the other side")
            case .failed(let reason):
                return carriers.lost(carrier, "not what the other side sent (\(reason))")
            }
        }
    }

    /// The peer is not who it must be. It gets TLS's alert and nothing else.
    func turnAway(_ carrier: Carrier, _ reason: String) {
        guard !carrier.isOver else { return }
        relay.host.handleFailed(carrier, reason)
        sendOwed(carrier)
        carriers.closeGently(carrier)
    }

    /// A secure carrier needs no room for plain bytes before ciphertext comes.
    private func releaseIdleBlock(_ carrier: Carrier) {
        if carrier.isHot {
            if carrier.block.parsed == carrier.block.filled { carriers.reader.releaseBlock(carrier) }
        } else {
            carriers.reader.shrinkBlock(carrier)
        }
    }

    // MARK: What leaves

    func sendSealed(_ carrier: Carrier, _ channel: SecureChannel, _ mode: Loop.SendMode = .waiting) {
        guard !carrier.inFlight.send else { return }
        let bytes = channel.outgoing
        guard bytes.count > 0 else { return }
        var vector = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
        carrier.inFlight.send = relay.loop.send(carrier.fd, &vector, 1, carrier.token(.carrierSend), mode)
        if !carrier.inFlight.send { carriers.retryLater(carrier) }
    }

    /// What TLS itself has to say goes out, unless something goes out that takes it along.
    func sendOwed(_ carrier: Carrier) {
        guard let channel = carrier.transport.channel, channel.owes, !carrier.isOver, !carrier.inFlight.send,
            channel.outgoing.isEmpty
        else { return }
        guard channel.seal(relay.iovecs, 0, relay) else { return carriers.retryLater(carrier) }
        sendSealed(carrier, channel)
    }

    /// Sealed bytes that the ring refused go out before anything else.
    func resend(_ carrier: Carrier) {
        guard let channel = carrier.transport.channel, !carrier.isOver else { return }
        if channel.outgoing.isEmpty { sendOwed(carrier) } else { sendSealed(carrier, channel) }
    }
}
