import Control
import Glibc
import Loop
import Tunnel
import Wire

/// The user's servers behind the tele server, by target: each stream dials one. Its addresses are tried one after the
/// other within one deadline.
final class Origins {
    /// One that was removed keeps its place: connects to it may be under way.
    private struct Entry {
        var mapping: Mapping
        var name: ServerName
        var isRemoved = false
        /// Sockets whose connect has not started: it starts when the turn's bytes have all been read, so that a stream that is
        /// reset in the same breath costs no connect.
        var waiting: [Token] = []
        var underWay = 0
    }

    private var entries: [Entry] = []
    private var places: [UInt64: UInt16] = [:]
    /// Of those that were not removed, for a person.
    private var names: [String] = []
    /// Of all.
    private var waitingCount = 0
    /// Sockets whose connect the ring had no room for, and when it is asked again: never in this turn.
    private var refused: [Token] = []
    private var retryAt: UInt64 = 0

    // MARK: Names

    /// All that there are from now on. Returns those that are new or changed.
    func set(_ mappings: [Mapping]) -> [Mapping] {
        for place in entries.indices where !mappings.contains(where: { $0.name == entries[place].mapping.name }) {
            entries[place].isRemoved = true
        }
        defer { names = self.mappings.map(\.name) }
        return mappings.filter(set)
    }

    private func set(_ mapping: Mapping) -> Bool {
        guard let place = entries.firstIndex(where: { $0.mapping.name == mapping.name }) else {
            places[mapping.target] = UInt16(entries.count)
            entries.append(Entry(mapping: mapping, name: ServerName(mapping.address)))
            return true
        }
        defer { entries[place].isRemoved = false }
        guard entries[place].mapping != mapping else { return entries[place].isRemoved }
        entries[place].mapping = mapping
        entries[place].name = ServerName(mapping.address)
        return true
    }

    var mappings: [Mapping] { entries.filter { !$0.isRemoved }.map(\.mapping) }

    func mappingName(_ place: UInt16) -> String { entries[Int(place)].mapping.name }

    /// Looks up what has no address yet.
    func lookUp(_ hub: Hub) {
        for place in entries.indices where entries[place].name.addresses.isEmpty { lookUp(hub, UInt16(place)) }
    }

    /// Some name has no address, and its answer is awaited.
    var isLookingUp: Bool { entries.contains { $0.name.addresses.isEmpty && $0.name.isLookingUp } }

    private func lookUp(_ hub: Hub, _ place: UInt16) {
        entries[Int(place)].name.lookUpIfUseful(hub, Operation.originLookup.token(UInt32(place)))
    }

    /// The next dial uses what is found.
    func handleLookup(_ hub: Hub, _ answer: Resolver.Answer) {
        let place = Int(Token(rawValue: answer.token).index)
        // Of a name that was replaced meanwhile it is the old answer: asked for again when it is needed.
        guard place < entries.count, answer.name == entries[place].mapping.address else { return }
        if case .failed(let reason) = entries[place].name.take(answer) {
            hub.journal.note(.nameUnresolved(entries[place].mapping.address, reason: reason))
        }
    }

    // MARK: Connects

    /// The peer opened a stream.
    func open(_ hub: Hub, _ session: Session, _ slot: StreamSlot, target: UInt64) {
        guard let place = places[target], !entries[Int(place)].isRemoved else { return refuse(hub, session, slot, target) }
        lookUp(hub, place)
        guard hub.users.hasRoom else { return session.endpoint.reset(slot, .tooMany, now: hub.instant) }
        guard let address = entries[Int(place)].name.addresses.first else {
            return session.endpoint.reset(slot, .unreachable, now: hub.instant)
        }
        guard let fd = try? Socket.dialling(address) else { return session.endpoint.reset(slot, .tooMany, now: hub.instant) }
        let index = hub.users.add(fd: fd, isConnecting: true, session, slot, mapping: place)
        session.endpoint.adopt(slot, owner: index)
        // Waiting for its turn counts: the user is told in time.
        hub.timers.set(hub.users.token(index, .originDeadline), at: hub.now + Policy.originMaximum.nanoseconds)
        wait(hub.users.token(index, .userConnect), place)
    }

    private func wait(_ token: Token, _ place: UInt16) {
        entries[Int(place)].waiting.append(token)
        waitingCount += 1
    }

    private func refuse(_ hub: Hub, _ session: Session, _ slot: StreamSlot, _ target: UInt64) {
        session.endpoint.reset(slot, .unknownTarget, now: hub.instant)
        hub.journal.note(.targetUnknown(session, target: target, known: names))
    }

    /// Starts connects while few are under way to the same origin: one that is silent keeps nobody from the others.
    func connectWaiting(_ hub: Hub) {
        if !refused.isEmpty, hub.now >= retryAt {
            let again = refused
            refused = []
            for token in again { if let user = hub.users.find(token) { wait(token, user.pointee.mapping) } }
        }
        guard waitingCount > 0 else { return }
        for place in entries.indices where !entries[place].waiting.isEmpty { connectWaiting(hub, place) }
    }

    private func connectWaiting(_ hub: Hub, _ place: Int) {
        var next = 0
        while next < entries[place].waiting.count, entries[place].underWay < Policy.connectsMaximum {
            let token = entries[place].waiting[next]
            next += 1
            guard let user = hub.users.find(token), user.pointee.life.phase == .connecting else { continue }
            guard let address = name(of: user).addresses.first, let fd = socket(hub, user, for: address) else {
                fail(hub, token.index, SystemError(EHOSTUNREACH))
                continue
            }
            user.pointee.fd = fd
            connect(hub, token.index, address)
        }
        entries[place].waiting.removeFirst(next)
        waitingCount -= next
        // Streams that were reset meanwhile leave their tokens: behind a silent origin they would gather.
        guard entries[place].waiting.count > Policy.connectsMaximum + 2 * hub.users.count else { return }
        let before = entries[place].waiting.count
        entries[place].waiting.removeAll { hub.users.find($0) == nil }
        waitingCount -= before - entries[place].waiting.count
    }

    private func name(of user: UnsafeMutablePointer<UserSocket>) -> ServerName { entries[Int(user.pointee.mapping)].name }

    /// The user's socket, made again when the origin has become one of another family.
    private func socket(_ hub: Hub, _ user: UnsafeMutablePointer<UserSocket>, for address: Address) -> Int32? {
        if Socket.localAddress(user.pointee.fd)?.family == address.family { return user.pointee.fd }
        guard let fd = try? Socket.dialling(address) else { return nil }
        hub.loop.close(user.pointee.fd)
        Socket.abortOnClose(fd)
        return fd
    }

    private func connect(_ hub: Hub, _ index: UInt32, _ address: Address) {
        let user = hub.users[index]
        if hub.loop.connect(user.pointee.fd, address, hub.users.token(index, .userConnect)) {
            user.pointee.life.submitted(.connect)
            user.pointee.armedAt = hub.now
            entries[Int(user.pointee.mapping)].underWay += 1
        } else {
            refused.append(hub.users.token(index, .userConnect))
            retryAt = hub.now + Policy.retryDelay.nanoseconds
            hub.users.retryLater(index)
        }
    }

    /// `isWanted`: its stream is still there.
    func handleConnected(_ hub: Hub, _ index: UInt32, isWanted: Bool, _ error: SystemError?) {
        let user = hub.users[index]
        entries[Int(user.pointee.mapping)].underWay -= 1
        guard isWanted else { return }
        if let error {
            let addresses = name(of: user).addresses
            user.pointee.addressIndex += 1
            let next = Int(user.pointee.addressIndex)
            guard next < min(addresses.count, 250), let fd = try? Socket.dialling(addresses[next]) else {
                return fail(hub, index, error)
            }
            hub.loop.close(user.pointee.fd)
            user.pointee.fd = fd
            Socket.abortOnClose(fd)
            return connect(hub, index, addresses[next])
        }
        hub.timers.cancel(hub.users.token(index, .originDeadline))
        hub.journal.note(.originConnected(after: hub.now - user.pointee.armedAt))
        user.pointee.life.connected()
        Socket.tuneUser(user.pointee.fd, unsentMaximum: hub.users.unsentMaximum)
        hub.users.armReceive(index)
        hub.users.markDirty(index)
    }

    func handleDeadline(_ hub: Hub, _ index: UInt32) {
        guard hub.users[index].pointee.life.phase == .connecting else { return }
        fail(hub, index, SystemError(ETIMEDOUT))
    }

    private func fail(_ hub: Hub, _ index: UInt32, _ error: SystemError) {
        let user = hub.users[index]
        guard let session = user.pointee.session?.takeUnretainedValue() else { return }
        let code: ResetCode = switch error.code {
        case ECONNREFUSED, ECONNRESET: .refused
        case ETIMEDOUT: .timedOut
        case EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EAGAIN: .tooMany
        default: .unreachable
        }
        hub.journal.note(.originUnreachable(session, entries[Int(user.pointee.mapping)].mapping, error))
        session.endpoint.reset(user.pointee.slot, code, now: hub.instant)
        hub.sessions.markDirty(session)
        hub.users.close(index, .reset)
    }
}
