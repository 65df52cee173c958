import Control
import Loop
import Time
import Tunnel

/// What streams want of the server, and which of them a client may have.
extension Server {
    func handleOpened(_ session: Session, _ slot: StreamSlot, target: UInt64) {
        guard !isDraining else { return session.endpoint.reset(slot, .stopping, now: relay.instant) }
        guard session.quota?.isFull != true else {
            relay.events.note(.tooManyStreams(session, most: session.quota?.most ?? 0))
            return session.endpoint.reset(slot, .tooMany, now: relay.instant)
        }
        relay.origins.open(session, slot, target: target)
    }

    /// They were read again: connections that a client may not have any more are reset.
    func applyPermissions() {
        relay.locals.table.forEach { index, user in
            guard let session = user.pointee.session?.takeUnretainedValue(), let mapping = relay.mapping(at: user.pointee.mapping) else { return }
            let isAllowed =
                user.pointee.mapping.isOrigin
                ? relay.origins.isAllowed(user, session) : relay.configuration.permissions.allow(session.peerName, listener: mapping.name)
            guard !isAllowed else { return }
            relay.events.note(.mappingForbidden(session, mapping))
            session.endpoint.reset(user.pointee.slot, .forbidden, now: relay.instant)
            relay.sessions.markDirty(session)
            relay.locals.close(index, .reset)
        }
        countStreams()
        warnOfStrangers()
        reverse.handleReloaded()
    }

    /// What clients with a limit of their own have now.
    func countStreams() {
        for session in relay.sessions.all { setQuota(session) }
    }

    func setQuota(_ session: Session) {
        let most = relay.configuration.permissions.streams(of: session.peerName)
        let quota = most.map { (relay.member?.group.quotas ?? quotas).quota(of: session.peerName, most: $0) }
        if quota !== session.quota {
            session.quota?.change(by: -session.userCount)
            quota?.change(by: session.userCount)
            session.quota = quota
        }
        session.endpoint.limits.streams = min(relay.configuration.maximumStreams, most ?? .max)
    }

    /// Tables of clients that no key belongs to: a name that is misspelled limits nobody.
    func warnOfStrangers() {
        guard let names = relay.credentials?.keyNames else { return }
        for name in relay.configuration.permissions.clients.keys.sorted() where name != Permissions.others && !names.contains(name) {
            relay.events.note(.clientUnknown(name: name))
        }
    }
}
