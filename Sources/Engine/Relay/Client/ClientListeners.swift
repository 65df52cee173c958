import Control
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// Users of the client: a stream for each, and the listeners that they come by.
extension Client {
    var mayAccept: Bool {
        relay.stopping.isRunning && relay.locals.count + requests.count < relay.locals.maximum && canOpen
    }

    func mayAccept(_ purpose: Listeners.Purpose) -> Bool { mayAccept }

    func handleAccepted(_ fd: Int32, _ mapping: Mapping?, _ place: UInt16) {
        // It was accepted while streams of the server, or of other listeners, took the last room. That is no end in order.
        guard mayAccept, let mapping else {
            Socket.abortOnClose(fd)
            return relay.loop.close(fd)
        }
        if let since = downSince, let limit = mapping.refuseAfterSeconds {
            let down = Int(relay.age(of: since) / 1_000_000_000)
            if down >= limit {
                relay.events.note(.connectionRefused(mapping, downForSeconds: down))
                Socket.abortOnClose(fd)
                return relay.loop.close(fd)
            }
        }
        relay.locals.tuneAccepted(fd)
        if let destination = mapping.destination { return go(fd, to: destination, mapping, place, []) }
        if let kind = mapping.kind.request { return requests.begin(fd, mapping, place, kind) }
        guard mapping.kind == .transparent else { return add(fd, target: mapping.target, place, mapping.header(fd)) }
        let (original, own) = (Socket.originalDestination(fd), Socket.localAddress(fd))
        // A socket of IPv6 has its own address as one of IPv6, also when it carries IPv4.
        let isOwn = original?.host == own?.host && original?.port == own?.port
        guard let original, !isOwn, let destination = Destination(address: Array(original.host), port: original.port) else {
            relay.events.note(.requestRefused(mapping, reason: "no rule of the packet filter has redirected it"))
            Socket.abortOnClose(fd)
            return relay.loop.close(fd)
        }
        go(fd, to: destination, mapping, place, [])
    }

    /// `rest`: what the user has sent already.
    func go(_ fd: Int32, to destination: Destination, _ mapping: Mapping, _ place: UInt16, _ rest: [UInt8]) {
        add(fd, target: Specification.destinationTarget, place, destination.head + mapping.header(fd) + rest)
    }

    /// `first`: bytes that go before the user's own.
    func add(_ fd: Int32, target: UInt64, _ place: UInt16, _ first: [UInt8] = []) {
        let index = relay.locals.open(fd: fd, sessionForNewUser, target: target, .listener(Int(place)), first: first)
        if let index, relay.configuration.stream != nil { only = .open(index, nil) }
    }

    func handleStreamReset(_ index: UInt32, _ code: ResetCode) {
        if case .open(index, _) = only { only = .open(index, code) }
    }

    func handleUserGone(_ index: UInt32, _ farewell: SocketLife.CloseMode) {
        guard case .open(index, let code) = only else { return }
        let words = code.map(\.description) ?? (wasRestarted ? "the server was restarted" : "it ended before all had arrived")
        // Whoever started us and has ended us wants no word of it.
        only = .gone(farewell == .orderly ? .finished : .streamBroken(relay.isReleased ? "" : words))
        relay.request(gently: farewell == .orderly)
    }

    var ending: Ending {
        if let givenUp { return .failed(givenUp) }
        return switch only {
        case .none: .finished
        case .open: .streamBroken(relay.isReleased ? "" : "tele was told to stop")
        case .gone(let ending): ending
        }
    }

    /// A user of the server, for one of this side's origins.
    func handleOpened(_ session: Session, _ slot: StreamSlot, target: UInt64) {
        guard relay.stopping.isRunning else { return session.endpoint.reset(slot, .stopping, now: relay.instant) }
        relay.origins.open(session, slot, target: target)
    }
}
