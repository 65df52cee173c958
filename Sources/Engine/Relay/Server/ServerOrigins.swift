import Loop
import Time
import Tunnel

/// What streams want of the server: each a connection to an origin.
extension ServerHost {
    func handleOpened(_ session: Session, _ slot: StreamSlot, target: UInt64) {
        guard !isDraining else { return session.endpoint.reset(slot, .stopping, now: hub.instant) }
        origins.open(hub, session, slot, target: target)
    }

    func handleOriginConnected(_ token: Token, _ error: SystemError?) { origins.handleConnected(hub, token, error) }

    func handleConnectAbandoned(_ index: UInt32) { origins.forget(hub, index) }

    func finishTurn() { origins.connectWaiting(hub) }

    func handleLookup(_ answer: Resolver.Answer) { origins.handleLookup(hub, answer) }

    func mappingName(_ place: UInt16) -> String { origins.mappingName(place) }

    func apply(_ mappings: [Mapping], _ found: [HostPort: Resolver.Answer]) -> [StartFault] {
        let names = Set(mappings.map(\.name))
        for mapping in origins.mappings where !names.contains(mapping.name) { hub.journal.note(.mappingRemoved(mapping)) }
        let (changed, faults) = origins.set(mappings)
        for mapping in changed { hub.journal.note(.originSet(mapping)) }
        origins.lookUp(hub)
        return faults
    }
}
