import Control
import Loop
import Time
import Tunnel

/// Users whose programs choose where their streams lead, until that is known: the first bytes of the stream say it (docs/protocol.md 6.16).
final class Destinations {
    unowned(unsafe) private let relay: RelayProcess
    /// Users whose stream has brought bytes, in which the destination may be.
    private var unread: [Token] = []

    init(_ relay: RelayProcess) { self.relay = relay }

    /// The first bytes of the stream say where it leads.
    func awaitHead(_ index: UInt32) {
        relay.locals[index].pointee.lists.insert(.unnamed)
        relay.timers.set(relay.locals.token(index, .originDeadline), at: relay.now + Policy.originMaximum.nanoseconds)
        handleDelivered(index)
    }

    /// Bytes came for a user who has no destination yet. They are read when this turn's have all been.
    func handleDelivered(_ index: UInt32) { unread.append(relay.locals.token(index, .originDeadline)) }

    func read() {
        guard !unread.isEmpty else { return }
        for token in unread {
            guard let user = relay.locals.find(token), user.pointee.lists.contains(.unnamed), user.pointee.life.phase == .connecting else { continue }
            switch Destination.head(of: relay.locals.writer.firstBytes(user, Destination.headMaximum)) {
            case .incomplete: break
            case .invalid: relay.origins.refuse(token.index, .unknownTarget)
            case .whole(let destination, _): begin(token.index, destination)
            }
        }
        unread.removeAll(keepingCapacity: true)
    }

    private func begin(_ index: UInt32, _ destination: Destination) {
        let user = relay.locals[index]
        guard let session = user.pointee.session?.takeUnretainedValue() else { return }
        user.pointee.lists.remove(.unnamed)
        guard relay.configuration.permissions.destinations(of: session.peerName).mayPermit(destination) else {
            relay.events.note(.destinationForbidden(session, destination, address: nil))
            return relay.origins.refuse(index, .forbidden)
        }
        relay.origins.dial(index, session, to: destination)
    }
}
