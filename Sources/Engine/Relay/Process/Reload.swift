import Control
import Glibc
import Loop
import Time

/// What a running process reads again: its configuration and keys on SIGHUP, its certificates whenever their files change.
final class Reload {
    unowned(unsafe) private let relay: RelayProcess
    private let reconfigure: Reconfigure?
    /// The certificates' files did not fit each other, perhaps because only some of them were renewed yet.
    private var hasMisfit = false
    /// Tells the answers for the last reload from those for an earlier one.
    private var number: UInt32 = 0
    /// Look-ups whose answer has not come, and those that have.
    private var awaited = 0
    private var found: [HostPort: Resolver.Answer] = [:]

    /// `reconfigure` nil: there is one configuration only.
    init(_ relay: RelayProcess, _ reconfigure: Reconfigure?) {
        self.relay = relay
        self.reconfigure = reconfigure
    }

    /// SIGHUP. A fault in the configuration or in the keys changes nothing.
    func run() {
        guard
            reconfigure != nil || relay.credentials != nil || relay.configuration.proxy?.file != nil
                || relay.configuration.mappings.contains(where: { $0.passwordFile != nil })
        else { return relay.events.note(.nothingToReload) }
        relay.manager.reloading()
        defer { relay.manager.ready() }
        do throws(StartFault) {
            let fresh = try reconfigure?()
            try use(fresh?.part(0))
            for number in 1..<max(1, relay.configuration.threads) { relay.member?.mail.post(.reload(fresh?.part(number)), to: number) }
        } catch {
            relay.events.note(.reloadFailed(error))
        }
    }

    /// The same for a further loop of the process, which the first one tells.
    func run(with fresh: Configuration?) {
        do throws(StartFault) { try use(fresh) } catch { relay.events.note(.reloadFailed(error)) }
    }

    /// Nil: there is one configuration only, and its files are read again.
    private func use(_ fresh: Configuration?) throws(StartFault) {
        let fresh = fresh ?? relay.configuration
        let password = try relay.client?.readProxyCredentials()
        let passwords = relay.client == nil ? [:] : try ProxyRequests.passwords(of: fresh.mappings)
        try relay.credentials?.reload()
        relay.client?.requests.use(passwords)
        relay.client?.use(password ?? nil)
        let ignored = relay.configuration.differences(from: fresh)
        relay.configuration.mappings = fresh.mappings
        relay.configuration.reverseMappings = fresh.reverseMappings
        relay.configuration.permissions = fresh.permissions
        if relay.isFirst { relay.events.note(.reloaded(ignored: ignored)) }
        if relay.credentials != nil { relay.host.handleReloaded() }
        relay.server?.applyPermissions()
        noteCertificateAge()
        lookUpListeners()
    }

    // MARK: Listeners

    /// Names to listen on are looked up off the loop: a name server may be silent for long.
    private func lookUpListeners() {
        number &+= 1
        found = [:]
        awaited = 0
        let present = Dictionary(relay.listeners.mappings.map { ($0.name, $0) }) { first, _ in first }
        var asked: Set<HostPort> = []
        for mapping in relay.isFirst ? relay.configuration.listened : [] where present[mapping.name] != mapping {
            let name = mapping.address
            guard !name.host.isEmpty, Resolver.number(name) == nil, asked.insert(name).inserted,
                relay.resolver.look(up: name, token: Operation.listenerLookup.token(number).rawValue, isPassive: true)
            else { continue }
            awaited += 1
        }
        if awaited == 0 { applyMappings() }
    }

    func handleLookup(_ answer: Resolver.Answer) {
        guard Token(rawValue: answer.token).index == number else { return }
        found[answer.name] = answer
        awaited -= 1
        if awaited == 0 { applyMappings() }
    }

    private func applyMappings() {
        guard relay.stopping.isRunning else { return }
        let faults =
            (relay.isFirst ? relay.listeners.apply(relay.configuration.listened, found) : []) + relay.origins.apply(relay.configuration.dialled)
        for fault in faults { relay.events.note(.mappingFailed(fault)) }
        found = [:]
        relay.server?.reverse.handleReloaded()
    }

    // MARK: Certificates

    /// Their folder changed: they are read when nobody has written to it for a moment.
    func handleFileEvents() {
        hasMisfit = false
        relay.timers.set(Operation.filesSettled.token(), at: relay.now + Policy.filesPause.nanoseconds)
    }

    /// Renewed certificates are used from now on, without a signal.
    func renewCertificates() {
        guard let credentials = relay.credentials, credentials.areOutdated else { return }
        do throws(StartFault) {
            try credentials.reload()
        } catch {
            if hasMisfit { return relay.events.note(.reloadFailed(error)) }
            hasMisfit = true
            return relay.timers.set(Operation.filesSettled.token(), at: relay.now + Policy.filesPatience.nanoseconds)
        }
        if relay.isFirst {
            relay.events.note(.certificatesRenewed(expiry: credentials.expiry ?? 0))
            relay.member?.mail.tellOthers(.renewCertificates)
        }
        relay.host.handleReloaded()
        noteCertificateAge()
    }

    /// Once a day.
    func noteCertificateAge() {
        guard relay.isFirst, let expiry = relay.credentials?.expiry else { return }
        relay.timers.set(Operation.certificateAge.token(), at: relay.now + Policy.expiryInterval.nanoseconds)
        let left = expiry - Int64(time(nil))
        if left < Int64(Policy.expiryNotice.nanoseconds / 1_000_000_000) { relay.events.note(.certificateExpires(seconds: left)) }
    }
}
