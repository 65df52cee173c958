import Control
import Glibc
import Loop
import Tunnel
import Wire

/// The user's servers behind the tele server, by target: each stream dials one. Its addresses are tried one after the
/// other within one deadline.
final class Origins {
    /// Target → name. Version 1 has target 0 only.
    private let names: [ServerName]
    /// Sockets whose connect has not started: it starts when the turn's bytes have all been read, so that a stream that is
    /// reset in the same breath costs no connect.
    private var waiting: [Token] = []
    private var underWay = 0
    private var failures = 0
    private var toldAt: UInt64 = 0

    init(_ names: [ServerName]) { self.names = names }

    /// The peer opened a stream.
    func open(_ hub: Hub, _ session: Session, _ slot: StreamSlot, target: UInt64) {
        guard target < names.count else { return session.endpoint.reset(slot, .unreachable, now: hub.instant) }
        let name = names[Int(target)]
        name.lookUpIfUseful(hub, .originLookup)
        guard hub.users.hasRoom else { return session.endpoint.reset(slot, .tooMany, now: hub.instant) }
        guard let address = name.addresses.first else {
            return session.endpoint.reset(slot, .unreachable, now: hub.instant)
        }
        guard let fd = try? Socket.dialling(address) else { return session.endpoint.reset(slot, .tooMany, now: hub.instant) }
        let index = hub.users.add(fd: fd, isConnecting: true, session, slot)
        session.endpoint.adopt(slot, owner: index)
        // Waiting for its turn counts: the user is told in time.
        hub.timers.set(hub.users.token(index, .originDeadline), at: hub.now + Policy.originMaximum.nanoseconds)
        waiting.append(hub.users.token(index, .userConnect))
    }

    /// Starts connects while few are under way.
    func connectWaiting(_ hub: Hub) {
        var next = 0
        while next < waiting.count, underWay < Policy.connectsMaximum {
            let token = waiting[next]
            next += 1
            guard let user = hub.users.find(token), user.pointee.life.phase == .connecting else { continue }
            guard let address = names[0].addresses.first else {
                fail(hub, token.index, SystemError(EHOSTUNREACH), names[0])
                continue
            }
            connect(hub, token.index, address, names[0])
        }
        waiting.removeFirst(next)
    }

    private func connect(_ hub: Hub, _ index: UInt32, _ address: Address, _ name: ServerName) {
        let user = hub.users[index]
        if hub.loop.connect(user.pointee.fd, address, hub.users.token(index, .userConnect)) {
            user.pointee.life.submitted(.connect)
            underWay += 1
        } else {
            fail(hub, index, SystemError(ENOMEM), name)
        }
    }

    func handleConnected(_ hub: Hub, _ index: UInt32?, _ error: SystemError?) {
        underWay -= 1
        guard let index else { return }
        let user = hub.users[index]
        let name = names[0]
        if let error {
            user.pointee.addressIndex += 1
            let next = Int(user.pointee.addressIndex)
            guard next < min(name.addresses.count, 250), let fd = try? Socket.dialling(name.addresses[next]) else {
                return fail(hub, index, error, name)
            }
            hub.loop.close(user.pointee.fd)
            user.pointee.fd = fd
            Socket.abortOnClose(fd)
            return connect(hub, index, name.addresses[next], name)
        }
        hub.timers.cancel(hub.users.token(index, .originDeadline))
        user.pointee.life.connected()
        Socket.tuneUser(user.pointee.fd)
        hub.users.armReceive(index)
        hub.users.markDirty(index)
    }

    func handleDeadline(_ hub: Hub, _ index: UInt32) {
        guard hub.users[index].pointee.life.phase == .connecting else { return }
        fail(hub, index, SystemError(ETIMEDOUT), names[0])
    }

    private func fail(_ hub: Hub, _ index: UInt32, _ error: SystemError, _ name: ServerName) {
        let user = hub.users[index]
        guard let session = user.pointee.session?.takeUnretainedValue() else { return }
        let code: ResetCode = switch error.code {
        case ECONNREFUSED, ECONNRESET: .refused
        case ETIMEDOUT: .timedOut
        case EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EAGAIN: .tooMany
        default: .unreachable
        }
        note(hub, session, name, error)
        session.endpoint.reset(user.pointee.slot, code, now: hub.instant)
        hub.sessions.markDirty(session)
        hub.users.close(index, .reset)
    }

    /// One line a second at most: a thousand users of a dead origin are one piece of news.
    private func note(_ hub: Hub, _ session: Session, _ name: ServerName, _ error: SystemError) {
        failures += 1
        guard hub.now > toldAt + Policy.newsInterval.nanoseconds else { return }
        hub.journal.note(.originUnreachable(session, name.name, error, times: failures))
        toldAt = hub.now
        failures = 0
    }

    /// The next dial uses what is found.
    func handleLookup(_ hub: Hub, _ answer: Resolver.Answer) {
        if case .failed(let reason) = names[0].take(answer) {
            hub.journal.note(.nameUnresolved(names[0].name, reason: reason))
        }
    }
}
