import Control
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// Which client serves the users of each reverse mapping: they connect to this server, and the origins are beside the clients. A client
/// names its origins in every HELLO (docs/protocol.md 4.23).
///
/// Of several clients with an origin of one name the one that came last serves, as long as its carrier works; else one whose carrier does.
/// Without any, users wait in the kernel's queue of their listener.
final class ReverseMappings {
    unowned(unsafe) private let relay: RelayProcess
    /// By target. A client may name others, of which nothing is kept but their numbers.
    private var listeners: [UInt64: Mapping]
    /// Proven sessions of clients that have the origin of a listener, by its target, the oldest first.
    private var sessions: [UInt64: [Session]] = [:]
    /// Since when no client has had the origin.
    private var unservedSince: [UInt64: UInt64] = [:]
    private let startedAt = Clock.now()

    init(_ relay: RelayProcess) {
        self.relay = relay
        listeners = ReverseMappings.listeners(of: relay)
    }

    private static func listeners(of relay: RelayProcess) -> [UInt64: Mapping] {
        Dictionary(relay.configuration.listened.map { ($0.target, $0) }) { first, _ in first }
    }

    /// Mappings or permissions were read again.
    func handleReloaded() {
        listeners = ReverseMappings.listeners(of: relay)
        for target in sessions.keys where listeners[target] == nil { (sessions[target], unservedSince[target]) = (nil, nil) }
        for session in relay.sessions.all where session.isProven && !session.origins.isEmpty { serve(session) }
        rearm()
    }

    // MARK: Clients

    /// These are the origins that the session's client has now. Returns what it is told.
    func handleHello(_ session: Session, _ targets: [UInt64]) -> [Welcome.OriginAnswer] {
        guard !targets.isEmpty || !session.origins.isEmpty else { return [] }
        let before = Set(session.origins)
        let now = Set(targets)
        for target in before.subtracting(now) { remove(session, from: target) }
        session.origins = targets
        for target in now {
            guard let mapping = listeners[target], !before.contains(target) else { continue }
            relay.events.note(isAllowed(session, mapping) ? .clientServes(session, mapping) : .listenerForbidden(session, mapping))
        }
        var serves = session.isProven
        #if CANARIES
        if Canary.selected == .servesUnproven { serves = true }
        #endif
        if serves { serve(session) }
        return targets.map { target in listeners[target].map { isAllowed(session, $0) ? .served : .forbidden } ?? .unknown }
    }

    /// The session's client has got its WELCOME. Of a session whose WELCOME is lost it never hears: it begins another one.
    func handleProven(_ session: Session) { if !session.origins.isEmpty { serve(session) } }

    private func serve(_ session: Session) {
        for target in session.origins where listeners[target] != nil {
            insert(session, for: target)
            // Of a client that is gone for good, perhaps, the users of whom it never heard are taken over.
            for other in sessions[target] ?? [] where other !== session && !other.link.hasCarrier { takeOver(target, from: other, to: session) }
        }
        rearm()
    }

    private func insert(_ session: Session, for target: UInt64) {
        var others = sessions[target] ?? []
        guard !others.contains(where: { $0 === session }) else { return }
        others.insert(session, at: others.lastIndex { $0.openedAt <= session.openedAt }.map { $0 + 1 } ?? 0)
        sessions[target] = others
        unservedSince[target] = nil
    }

    private func remove(_ session: Session, from target: UInt64) {
        sessions[target]?.removeAll { $0 === session }
        guard sessions[target]?.isEmpty == true else { return }
        sessions[target] = nil
        unservedSince[target] = relay.now
    }

    private func takeOver(_ target: UInt64, from old: Session, to new: Session) {
        guard let mapping = listeners[target], isAllowed(new, mapping) else { return }
        relay.sessions.carryOver(from: old, to: new) { [relay] user in relay.mapping(at: user.pointee.mapping)?.target == target }
    }

    private func isAllowed(_ session: Session, _ mapping: Mapping) -> Bool {
        relay.configuration.permissions.allow(session.peerName, listener: mapping.name)
    }

    /// The session is about to end: users of whom its client has not heard go to another client.
    func handleSessionEnded(_ session: Session) {
        let targets = session.origins
        session.origins = []
        for target in targets {
            remove(session, from: target)
            guard let mapping = listeners[target], let other = self.session(for: mapping) else { continue }
            takeOver(target, from: session, to: other)
        }
        if !targets.isEmpty { rearm() }
    }

    // MARK: Users

    /// The session that the next user of the mapping belongs to.
    private func session(for mapping: Mapping) -> Session? {
        guard let all = sessions[mapping.target] else { return nil }
        return all.last { !$0.link.isDown && isAllowed($0, mapping) } ?? all.last { isAllowed($0, mapping) }
    }

    /// When `-refuse-after` has users of the mapping refused, if nothing changes. Nil: never.
    private func refusalTime(_ mapping: Mapping, _ session: Session?) -> UInt64? {
        guard let seconds = mapping.refuseAfterSeconds, seconds != .max else { return nil }
        let since = session.map { $0.link.downSince } ?? unservedSince[mapping.target] ?? startedAt
        return since.map { $0 + UInt64(seconds) * 1_000_000_000 }
    }

    /// Whether a user of the mapping may be accepted now.
    func readiness(_ mapping: Mapping) -> Listeners.Readiness {
        let session = session(for: mapping)
        if let time = refusalTime(mapping, session), relay.now >= time { return .ready }
        guard let session else { return .unserved(until: refusalTime(mapping, nil)) }
        return relay.locals.hasRoom && session.endpoint.canOpen && session.quota?.isFull != true ? .ready : .full
    }

    func accept(_ fd: Int32, _ mapping: Mapping, _ place: UInt16) {
        let session = session(for: mapping)
        if let time = refusalTime(mapping, session), relay.now >= time {
            relay.events.note(.connectionRefused(mapping, downForSeconds: Int(relay.age(of: time) / 1_000_000_000) + (mapping.refuseAfterSeconds ?? 0)))
            return refuse(fd)
        }
        // It was accepted while its client left.
        guard let session, relay.locals.hasRoom, session.endpoint.canOpen, session.quota?.isFull != true else { return refuse(fd) }
        relay.locals.tuneAccepted(fd)
        _ = relay.locals.open(fd: fd, session, target: mapping.target, .listener(Int(place)), first: mapping.header(fd))
    }

    private func refuse(_ fd: Int32) {
        Socket.abortOnClose(fd)
        relay.loop.close(fd)
    }

    /// Who serves, or may serve, has changed.
    private func rearm() { relay.listeners.handleReadinessChanged() }
}
