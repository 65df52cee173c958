import Control
import Loop
import Time
import Tunnel

/// What streams want of the server: each a connection to an origin.
extension Server {
    func handleOpened(_ session: Session, _ slot: StreamSlot, target: UInt64) {
        guard !isDraining else { return session.endpoint.reset(slot, .stopping, now: relay.instant) }
        origins.open(relay, session, slot, target: target)
    }

    func handleOriginConnected(_ token: Token, _ error: SystemError?) { origins.handleConnected(relay, token, error) }

    /// They were read again: connections that a client may not have any more are reset.
    func applyPermissions() {
        relay.locals.table.forEach { index, user in
            guard let session = user.pointee.session?.takeUnretainedValue(), !origins.isAllowed(relay, user, session) else { return }
            relay.events.note(
                .mappingForbidden(session, Mapping(name: origins.mappingName(user.pointee.mapping), address: origins.address(user.pointee.mapping))))
            session.endpoint.reset(user.pointee.slot, .forbidden, now: relay.instant)
            relay.sessions.markDirty(session)
            relay.locals.close(index, .reset)
        }
        warnOfStrangers()
    }

    /// Tables of clients that no key belongs to: a name that is misspelled limits nobody.
    func warnOfStrangers() {
        guard let names = relay.credentials?.keyNames else { return }
        for name in relay.configuration.permissions.clients.keys.sorted() where name != Permissions.others && !names.contains(name) {
            relay.events.note(.clientUnknown(name: name))
        }
    }

    func handleDelivered(_ index: UInt32) { origins.handleDelivered(relay, index) }

    func handleConnectAbandoned(_ index: UInt32) { origins.forget(relay, index) }

    func finishTurn() { if !relay.handover.isUnderWay { origins.connectWaiting(relay) } }

    func handleLookup(_ answer: Resolver.Answer) { origins.handleLookup(relay, answer) }

    func mappingName(_ place: UInt16) -> String { origins.mappingName(place) }

    func apply(_ mappings: [Mapping], _ found: [HostPort: Resolver.Answer]) -> [StartFault] {
        let names = Set(mappings.map(\.name))
        for mapping in origins.mappings where !names.contains(mapping.name) { relay.events.note(.mappingRemoved(mapping)) }
        let (changed, faults) = origins.set(mappings)
        for mapping in changed { relay.events.note(.originSet(mapping)) }
        origins.lookUp(relay)
        return faults
    }
}
