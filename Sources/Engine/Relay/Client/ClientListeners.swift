import Control
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// Users of the client: a stream for each, and the listeners that they come by.
extension Client {
    var mayAccept: Bool {
        relay.stopping.isRunning && relay.locals.count + requests.count < relay.locals.maximum && session.endpoint.canOpen
    }

    func handleAccepted(_ fd: Int32, _ mapping: Mapping?, _ place: UInt16) {
        guard mayAccept, let mapping else { return relay.loop.close(fd) }
        if let since = session.link.downSince, let limit = mapping.refuseAfterSeconds {
            let down = Int((relay.now - min(since, relay.now)) / 1_000_000_000)
            if down >= limit {
                relay.events.note(.connectionRefused(mapping, downForSeconds: down))
                Socket.abortOnClose(fd)
                return relay.loop.close(fd)
            }
        }
        let peer = Socket.peerAddress(fd)
        Socket.tune(fd, peer?.isLoopback ?? false)
        Socket.tuneUser(fd, unsentMaximum: relay.locals.unsentMaximum)
        if let destination = mapping.destination { return go(fd, to: destination, mapping, place, []) }
        if let kind = mapping.kind.request { return requests.begin(fd, mapping, place, kind) }
        guard mapping.kind == .transparent else { return add(fd, target: mapping.target, place, header(fd, mapping)) }
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
        add(fd, target: Specification.destinationTarget, place, destination.head + header(fd, mapping) + rest)
    }

    /// What the origin hears before the user.
    private func header(_ fd: Int32, _ mapping: Mapping) -> [UInt8] {
        mapping.tellsAddress ? ProxyHeader(from: Socket.peerAddress(fd), to: Socket.localAddress(fd)).bytes : []
    }

    /// `header`: bytes that go before the user's own.
    func add(_ fd: Int32, target: UInt64, _ place: UInt16, _ header: [UInt8] = []) {
        let index = relay.locals.add(fd: fd, session, 0, mapping: place)
        let slot = session.endpoint.open(owner: index, target: target, now: relay.instant)
        relay.locals[index].pointee.slot = slot
        if relay.configuration.stream != nil { only = .open(index, nil) }
        if !header.isEmpty, !relay.locals.reader.prepend(header, index) {
            relay.events.note(.outOfMemory(session, what: "a user's bytes, connection reset"))
            session.endpoint.reset(slot, .tooMany, now: relay.instant)
            return relay.locals.close(index, .reset)
        }
        relay.locals.reader.arm(index)
        relay.sessions.markDirty(session)
    }

    func handleStreamReset(_ index: UInt32, _ code: ResetCode) {
        if case .open(index, _) = only { only = .open(index, code) }
    }

    func handleUserGone(_ index: UInt32, _ farewell: SocketLife.CloseMode) {
        guard case .open(index, let code) = only else { return }
        let words = code.map(\.description) ?? (wasUnknown ? "the server was restarted" : "it ended before all had arrived")
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

    func mappingName(_ place: UInt16) -> String { relay.listeners.mapping(at: place)?.name ?? "" }

    func mappingAddress(_ place: UInt16) -> HostPort? { relay.listeners.mapping(at: place)?.address }

    func place(of name: String, address: HostPort?) -> UInt16? {
        relay.listeners.place(of: name)
            ?? relay.listeners.place(ofFormer: Mapping(name: name, address: address ?? HostPort(host: "", port: 0)))
    }

    func apply(_ mappings: [Mapping], _ found: [HostPort: Resolver.Answer]) -> [StartFault] {
        let wanted = Dictionary(mappings.map { ($0.name, $0) }) { first, _ in first }
        let byAddress = Dictionary(mappings.map { ($0.address, $0) }) { first, _ in first }
        var changes: [String: Mapping] = [:]
        var removed: Set<String> = []
        for old in relay.listeners.mappings where wanted[old.name] != old {
            // Another name or way at the same address: the socket stays, and with it whoever waits there.
            if let new = byAddress[old.address], new.access == old.access {
                changes[old.name] = new
                relay.events.note(.mappingChanged(new))
            } else {
                removed.insert(old.name)
                relay.events.note(.mappingRemoved(old))
            }
        }
        relay.listeners.close(removed)
        relay.listeners.replace(changes)
        let present = Dictionary(relay.listeners.mappings.map { ($0.name, $0) }) { first, _ in first }
        return mappings.filter { present[$0.name] != $0 }.compactMap { mapping in
            do throws(StartFault) {
                for socket in try ListeningSocket.all(mapping.address, access: mapping.access, relay, patience: .zero, found: found[mapping.address]) {
                    relay.listeners.add(socket, .users(mapping))
                    relay.events.note(
                        .listensForUsers(
                            socket.address, mapping: mapping.name, server: relay.configuration.output,
                            driver: relay.loop.driverName))
                }
                return nil
            } catch {
                return error
            }
        }
    }

    /// The server calls nobody here.
    func handleOpened(_ session: Session, _ slot: StreamSlot, target: UInt64) {
        session.endpoint.reset(slot, .refused, now: relay.instant)
    }
}
