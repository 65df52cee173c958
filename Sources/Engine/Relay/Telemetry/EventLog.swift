import Glibc
import Logging
import Loop
import State
import Time
import Tunnel
import Wire

/// Where events go: each is counted, and most are a line for a person.
struct EventLog {
    /// An outage that is over. `recovery` is 0 where the old carrier went on by itself.
    struct Outage {
        var session: String
        var endedAt: UInt64
        var length: UInt64
        var recovery: UInt64
        var replayed: UInt64
    }

    private let log: Logger
    private(set) var counters = Counters()
    private(set) var histograms = Histograms()
    private var pace = LogRateLimiter()
    /// The last few, oldest first.
    private(set) var outages: [Outage] = []

    init(_ log: Logger) { self.log = log }

    mutating func note(_ event: Event) {
        count(event)
        guard let line = Line(event), line.level >= log.logLevel else { return }
        // At the levels debug and trace nothing is left out.
        let verdict =
            log.logLevel < .info
            ? .write(leftOut: 0, isLast: false)
            : pace.judge(line.words, now: Instant(nanoseconds: Clock.now()))
        guard case .write(let leftOut, let isLast) = verdict else { return }
        var facts = line.facts
        if leftOut > 0 { facts["left-out"] = "\(leftOut)" } else if isLast { facts["more"] = "left out while they come so fast" }
        log.log(level: line.level, "\(line.words)", metadata: facts)
    }

    /// One that was noticed in two ways counts once.
    private mutating func remember(_ outage: Outage) {
        if let last = outages.last, last.session == outage.session, outage.endedAt &- last.endedAt < outage.length { return }
        histograms.outage.record(outage.length / 1000)
        if outages.count == Policy.outagesMaximum { outages.removeFirst() }
        outages.append(outage)
    }

    /// Counts since the start of the process, whatever program ran in it then.
    mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        try counters.archive(&archive)
        try histograms.archive(&archive)
        try archive.list(&outages, most: Policy.outagesMaximum, blank: Outage(session: "", endedAt: 0, length: 0, recovery: 0, replayed: 0)) {
            (outage, archive) throws(StateFault) in
            try archive.text(&outage.session, most: 64)
            try archive.number(&outage.endedAt)
            try archive.number(&outage.length)
            try archive.number(&outage.recovery)
            try archive.number(&outage.replayed)
        }
    }

    private mutating func count(_ event: Event) {
        switch event {
        case .carrierUp(_, _, let roundTrip):
            counters.carriers += 1
            counters.sessions += 1
            if let roundTrip { histograms.roundTrip.record(UInt64(roundTrip)) }
        case .sessionOpened:
            counters.carriers += 1
            counters.sessions += 1
        case .sessionResumed(let session, _, let after, let recovery, let replayed, let roundTrip):
            counters.carriers += 1
            counters.resumes += 1
            counters.replayedBytes += replayed
            if let roundTrip { histograms.roundTrip.record(UInt64(roundTrip)) }
            // A later HELLO that was under way takes over from the carrier that ended the outage: that is none.
            guard after >= Policy.outageMinimum.nanoseconds else { return }
            histograms.recovery.record(recovery / 1000)
            histograms.replayed.record(replayed)
            remember(Outage(session: session.name, endedAt: Clock.now(), length: after, recovery: recovery, replayed: replayed))
        case .serverChosen: counters.serverChanges += 1
        case .originConnected(let after): histograms.connect.record(after / 1000)
        case .carrierSuspected: counters.suspicions += 1
        case .carrierRecovered(let session, let after):
            counters.wrongSuspicions += 1
            remember(Outage(session: session.name, endedAt: Clock.now(), length: after, recovery: 0, replayed: 0))
        case .carrierWasSilent(let session, let length):
            remember(Outage(session: session.name, endedAt: Clock.now(), length: length, recovery: 0, replayed: 0))
        case .carrierLost: counters.carriersLost += 1
        case .dialFailed: counters.dialFailures += 1
        case .handshakeFailed, .strangerTurnedAway, .helloRefused, .unauthenticated: counters.refusals += 1
        case .sessionLost(_, let carried):
            counters.sessionsLost += 1
            counters.streamsCarriedOver += UInt64(carried)
        case .sessionExpired: counters.sessionsExpired += 1
        case .sessionEvicted, .sessionRevoked: counters.sessionsEvicted += 1
        case .protocolBroken: counters.faults += 1
        case .streamOpened: counters.streams += 1
        case .streamReset(_, let code, _):
            counters.streamsReset += 1
            if code == .forbidden { counters.forbidden += 1 }
        case .originUnreachable, .targetUnknown: counters.originFailures += 1
        case .destinationForbidden, .mappingForbidden:
            counters.originFailures += 1
            counters.forbidden += 1
        case .listenerForbidden, .tooManyStreams: counters.forbidden += 1
        case .originAnswered(_, _, let answer): if answer == .forbidden { counters.forbidden += 1 }
        case .connectionRefused: counters.connectionsRefused += 1
        case .cannotAccept: counters.acceptFailures += 1
        case .wokeAfterPause: counters.pauses += 1
        case .listensForUsers, .listensForCarriers, .mappingRemoved, .mappingChanged, .originSet, .mappingFailed, .servesAdmin, .controlUnavailable,
            .idleTooLong, .isOpenToStrangers, .addressInUse, .addressNotThere, .ringUnavailable, .nothingToReload,
            .reloaded, .reloadFailed, .handoverRefused, .handsOver, .tookOver, .recovered, .configurationUnread, .sessionGivenUp, .keepingFailed, .draining,
            .connectionsReset, .stopped, .sessionClosedByPeer, .nameUnresolved, .outOfMemory, .serverUnreachable, .carrierSpread, .standbyUp,
            .answeredByAnother, .requestRefused, .clientServes, .clientUnknown, .pausesForBan, .usesSmallSegments, .certificatesRenewed,
            .certificateExpires, .memoryBeyondLimit:
            break
        }
    }
}

/// An event as a person reads it.
private struct Line {
    let level: Logger.Level
    let words: String
    let facts: Logger.Metadata

    private init(_ level: Logger.Level, _ words: String, _ facts: Logger.Metadata = [:]) {
        self.level = level
        self.words = words
        self.facts = facts
    }

    init?(_ event: Event) {
        switch event {
        case .streamOpened, .originConnected, .dialFailed: return nil
        case .streamReset(_, .reset, _): return nil
        default: self = Line.process(event) ?? Line.carrier(event) ?? Line.session(event) ?? Line.stream(event)!
        }
    }

    private static func process(_ event: Event) -> Line? {
        switch event {
        case .listensForUsers(let address, let mapping, let server, let driver):
            Line(
                .info, "listening for users",
                ["address": "\(address)", "driver": "\(driver)"].merging(server.map { ["server": "\($0)"] } ?? [:]) { $1 }.merging(name(mapping)) { $1 })
        case .listensForCarriers(let address, let origins, let driver):
            Line(
                .info, "listening for carriers",
                ["address": "\(address)", "driver": "\(driver)"].merging(
                    origins.isEmpty
                        ? [:]
                        : ["origin": "\(origins.prefix(20).map(words).joined(separator: ", "))\(origins.count > 20 ? " and \(origins.count - 20) more" : "")"]
                ) { $1 })
        case .mappingRemoved(let mapping):
            Line(.notice, "mapping removed, open connections continue", ["mapping": "\(words(mapping))"])
        case .mappingFailed(let fault): Line(.error, "mapping not started", ["reason": "\(fault.sentence)", "hint": "\(fault.hint)"])
        case .mappingChanged(let mapping): Line(.notice, "mapping changed", ["mapping": "\(words(mapping))"])
        case .originSet(let mapping): Line(.notice, "origin set", ["origin": "\(words(mapping))"])
        case .isOpenToStrangers(let address):
            Line(.warning, "no key is set: anyone who can reach this port can use the origin", ["address": "\(address)"])
        case .addressNotThere(let address):
            Line(
                .warning, "listen address does not exist yet",
                [
                    "address": "\(address)", "hint": "connections are accepted once this host has the address; otherwise check the spelling",
                ])
        case .addressInUse(let address):
            Line(
                .notice, "address in use, trying again",
                [
                    "address": "\(address)", "for": "\(seconds(Policy.bindPatience.nanoseconds))",
                    "hint": "a tele that was killed holds its port for a moment",
                ])
        case .ringUnavailable(let reason): Line(.notice, "io_uring not available, using epoll", ["reason": "\(reason)"])
        case .memoryBeyondLimit(let configured, let limit):
            Line(
                .warning, "-memory exceeds the memory limit",
                [
                    "memory": "\(configured >> 20)MiB", "limit": "\(limit >> 20)MiB",
                    "hint": "the OOM killer may end tele during a long outage; lower -memory, or raise the limit of the container or service",
                ])
        case .wokeAfterPause(let count): Line(.notice, "woke after a pause", ["seconds": "\(count)"])
        case .cannotAccept(let error):
            Line(
                .warning, "cannot accept",
                [
                    "reason": "\(error)",
                    "hint": "new connections wait; raise the limit of open files or of memory",
                ])
        case .servesAdmin(let address): Line(.info, "metrics", ["address": "\(address)", "path": "/metrics"])
        case .controlUnavailable(let fault):
            Line(.debug, "control socket not available", ["reason": "\(fault.sentence)", "hint": "\(fault.hint)"])
        case .idleTooLong: Line(.notice, "idle timeout reached, exiting")
        case .nothingToReload: Line(.notice, "nothing to reload")
        case .reloaded(let ignored) where ignored.isEmpty: Line(.notice, "reloaded")
        case .reloaded(let ignored):
            Line(
                .warning, "reloaded, some changes need a restart",
                [
                    "unchanged": "\(ignored.joined(separator: ", "))", "hint": "\"tele restart\" applies them",
                ])
        case .reloadFailed(let fault):
            Line(.error, "reload failed, configuration unchanged", ["reason": "\(fault.sentence)", "hint": "\(fault.hint)"])
        case .certificatesRenewed(let expiry):
            Line(.notice, "certificates reloaded", ["valid-for": "\(max(0, expiry - Int64(time(nil))) / 86400)d"])
        case .certificateExpires(let seconds) where seconds < 0:
            Line(
                .error, "certificate expired",
                [
                    "days-ago": "\(-seconds / 86400)", "hint": "renew the file given by -cert or -ca; tele reloads it automatically",
                ])
        case .certificateExpires(let seconds):
            Line(
                .warning, "certificate expires soon",
                [
                    "days": "\(seconds / 86400)", "hint": "renew the file given by -cert or -ca; tele reloads it automatically",
                ])
        case .draining(let streams, let most):
            Line(.notice, "draining", ["streams": "\(streams)", "at-most": "\(most)s", "hint": "a second SIGTERM resets what is still open"])
        case .handoverRefused(let reason):
            Line(.warning, "upgrade failed, the running program continues", ["reason": "\(reason)"])
        case .tookOver(let version, let connections, let pause):
            Line(.notice, "upgraded", ["from": "\(version)", "connections": "\(connections)", "pause": "\(pause / 1_000_000)ms"])
        case .recovered(let connections, let pause, let reason):
            Line(.warning, "recovered", ["connections": "\(connections)", "pause": "\(pause / 1_000_000)ms", "reason": "\(reason)"])
        case .configurationUnread(let reason):
            Line(
                .warning, "cannot read the configuration, continuing with what it said before",
                ["reason": "\(reason)", "hint": "correct the file, then reload (SIGHUP)"])
        case .sessionGivenUp(let name):
            Line(
                .error, "session given up",
                [
                    "session": "\(name)", "reason": "the process crashed twice within 10 s while it worked on it",
                    "hint": "its connections are reset, the others continue; please report this",
                ])
        case .keepingFailed(let reason):
            Line(.error, "connections would not outlive a crash", ["reason": "\(reason)", "hint": "restart the service when it suits its users"])
        case .handsOver(let program, let connections):
            Line(.notice, "upgrading", ["to": "\(program)", "connections": "\(connections)"])
        case .connectionsReset(let count): Line(.warning, "open connections are reset", ["connections": "\(count)"])
        case .stopped: Line(.notice, "stopped")
        default: nil
        }
    }

    private static func carrier(_ event: Event) -> Line? {
        switch event {
        case .carrierUp(let session, let peer, let roundTrip):
            Line(.info, "carrier up", facts(session, peer, roundTrip))
        case .sessionOpened(let session, let peer):
            Line(.info, "session opened", facts(session, peer, nil))
        case .sessionResumed(let session, let peer, let after, _, let replayed, let roundTrip):
            Line(
                .info, "session resumed",
                facts(session, peer, roundTrip).merging([
                    "after": "\(seconds(after))", "replayed": "\(replayed)", "epoch": "\(session.endpoint.epoch)",
                ]) { $1 })
        case .carrierSuspected(let session, let peer):
            Line(
                .info, "carrier suspected",
                facts(session, peer, nil).merging([
                    "unacknowledged": "\(session.endpoint.retainedByteCount)"
                ]) { $1 })
        case .carrierRecovered(let session, let after):
            Line(.info, "carrier recovered", ["session": "\(session.name)", "after": "\(seconds(after))"])
        case .carrierSpread(let session, let peer):
            Line(.info, "several connections carry the session", facts(session, peer, nil))
        case .standbyUp(let session, let peer, let interface):
            Line(.info, "standby carrier up", facts(session, peer, nil).merging(["interface": "\(interface)"]) { $1 })
        case .carrierWasSilent(let session, let length):
            Line(.info, "inbound outage detected", ["session": "\(session.name)", "for": "\(seconds(length))"])
        case .carrierLost(let session, let peer, let reason, let held):
            Line(
                .warning, "carrier lost",
                facts(session, peer, nil).merging([
                    "reason": "\(reason)", "unacknowledged": "\(session.endpoint.retainedByteCount)",
                    "streams": "\(session.endpoint.streamCount)",
                ]) { $1 }
                .merging(held.map { ["held-for": "\($0)s"] } ?? [:]) { $1 })
        case .serverUnreachable(let address, let failure, let isUrgent):
            Line(
                isUrgent ? .error : .warning, "cannot reach the server",
                [
                    "address": "\(address)", "reason": "\(failure.reason)", "hint": "\(failure.hint) retrying, nothing is lost",
                ])
        case .pausesForBan(let count):
            Line(
                .notice, "dial attempts unanswered, pausing",
                [
                    "for": "\(count)s", "hint": "gives a firewall that bans frequent connections time to unban this host; a network change ends the pause",
                ])
        case .usesSmallSegments(let count):
            Line(
                .notice, "carrier connects but carries nothing, reducing packet size",
                [
                    "segment": "\(count)", "hint": "the path may drop full-size packets; check the MTU of its VPNs and tunnels",
                ])
        case .handshakeFailed(let peer, let reason):
            Line(.debug, "carrier ended before a session", ["peer": "\(peer)", "reason": "\(reason)"])
        case .unauthenticated(let peer, let reason):
            Line(.warning, "authentication failed", ["peer": "\(peer)", "reason": "\(reason)"])
        case .strangerTurnedAway(let peer, let reason):
            Line(.info, "handshake rejected", ["peer": "\(peer)", "reason": "\(reason)"])
        case .helloRefused(let peer, let code, let reason):
            Line(
                code == .tooManySessions ? .warning : .info,
                code == .sessionUnknown ? "resume refused" : "session refused",
                ["peer": "\(peer)", "reason": "\(reason)"])
        default: nil
        }
    }

    private static func session(_ event: Event) -> Line? {
        switch event {
        case .sessionLost(let session, let carried):
            Line(
                .warning, "session lost",
                [
                    "session": "\(session.name)", "streams": "\(session.endpoint.streamCount - carried)",
                    "carried-over": "\(carried)", "reason": "the server no longer knows it",
                    "hint": session.endpoint.streamCount > carried
                        ? "was the server restarted? its connections are reset" : "was the server restarted? nobody's connection is lost",
                ])
        case .answeredByAnother(let session, let peer, let home):
            Line(
                .notice, "session unknown to another server of this name",
                [
                    "session": "\(session.name)", "peer": "\(peer)", "waits-for": "\(home.map { "\($0)" } ?? "")",
                    "hint": "the name resolves to several servers; waiting for the one that owns the session",
                ])
        case .serverChosen(let session, let server, let other):
            Line(
                .notice, "new connections go to another server",
                [
                    "server": "\(server)", "peer": "\(session.carrier.map { "\($0.peer)" } ?? "")", "instead-of": "\(other)",
                    "hint": "open connections stay with the server that has them",
                ])
        case .sessionClosedByPeer(let session, let code, let reason):
            Line(
                .info, "session closed by the other side",
                [
                    "session": "\(session.name)", "code": "\(code.rawValue)", "reason": "\(reason)",
                    "streams": "\(session.endpoint.streamCount)",
                ])
        case .sessionExpired(let session, let held):
            Line(
                .warning, "session expired",
                [
                    "session": "\(session.name)", "streams": "\(session.endpoint.streamCount)",
                    "reason": "no carrier for \(held)s",
                ])
        case .sessionEvicted(let session):
            Line(.warning, "session evicted", ["session": "\(session.name)", "reason": "too many sessions"])
        case .sessionRevoked(let session):
            Line(
                .notice, "session ended",
                [
                    "session": "\(session.name)", "name": "\(session.peerName)",
                    "reason": "its key is no longer accepted",
                ])
        case .protocolBroken(let session, let rule):
            Line(.error, "protocol violation, session closed", ["session": "\(session.name)", "rule": "\(rule)"])
        default: nil
        }
    }

    private static func stream(_ event: Event) -> Line? {
        switch event {
        case .streamReset(let session, let code, let mapping):
            Line(
                .info, "stream reset",
                ["session": "\(session.name)", "reason": "\(code)"]
                    .merging(name(mapping)) { $1 })
        case .connectionRefused(let mapping, let down):
            Line(
                .warning, "connection refused",
                ["reason": "no carrier for \(down)s", "hint": "-refuse-after decides this; open connections wait"].merging(name(mapping.name)) { $1 })
        case .originUnreachable(let session, let origin, let error):
            Line(
                .warning, "origin not reached",
                [
                    "session": "\(session.name)", "origin": "\(words(origin))", "reason": "\(error.whenConnecting)",
                    "hint": "\(hint(error)); the user's connection was reset",
                ])
        case .targetUnknown(let session, let target, let known):
            Line(
                .warning, "no origin has the name that the other side requests",
                [
                    "session": "\(session.name)", "target": "\(String(target, radix: 16))",
                    "known": "\(known.joined(separator: ", "))",
                    "hint": "the other side's log has the name; the user's connection was reset",
                ])
        case .originAnswered(let session, let origin, .served):
            Line(.info, "serving users of the server", ["session": "\(session.name)"].merging(reverse(origin)) { $1 })
        case .originAnswered(let session, let origin, let answer):
            Line(
                .warning, "the server does not use this origin",
                [
                    "session": "\(session.name)",
                    "reason": answer == .forbidden
                        ? "it does not allow this client to serve it" : answer == .unknown ? "it has no listener of this name" : "it is an older version",
                    "hint": answer == .forbidden
                        ? "see listeners in [server.clients] there"
                        : answer == .unknown ? "name it in [server.listen] there, or set -reverse" : "upgrade the server",
                ].merging(reverse(origin)) { $1 })
        case .clientServes(let session, let mapping):
            Line(.info, "client serves a reverse mapping", facts(session, reverse(mapping.name)))
        case .listenerForbidden(let session, let mapping):
            Line(
                .warning, "client may not serve a reverse mapping",
                facts(session, reverse(mapping.name)).merging(["hint": "listeners in the tables of [server.clients] decide this"]) { $1 })
        case .requestRefused(let mapping, let reason):
            Line(
                .warning, "proxy request refused",
                [
                    "listener": "\(words(mapping))", "reason": "\(reason)",
                    "hint": mapping.kind == .transparent
                        ? "only connections that the packet filter redirects can use this listener; this one was reset"
                        : "programs must speak \(mapping.kind.rawValue) to this listener; this connection was closed",
                ])
        case .mappingForbidden(let session, let mapping):
            Line(
                .warning, "mapping not allowed",
                ["session": "\(session.name)", "name": "\(session.peerName)", "hint": "the tables of [server.clients] decide this; the connection was reset"]
                    .merging(name(mapping.name)) { $1 })
        case .tooManyStreams(let session, let most):
            Line(
                .warning, "client has too many streams",
                facts(session, ["at-most": "\(most)", "hint": "streams in the tables of [server.clients] decides this; the connection was reset"]))
        case .clientUnknown(let name):
            Line(
                .warning, "no key has this client's name", ["name": "\(name)", "hint": "its table in [server.clients] limits nobody; is the name right?"])
        case .destinationForbidden(let session, let destination, let address):
            Line(
                .warning, "destination not allowed",
                (address.map { ["address": "\($0)"] } ?? [:]).merging([
                    "session": "\(session.name)", "destination": "\(destination)",
                    "hint": "-destinations decides this; the user's connection was reset",
                ]) { $1 })
        case .nameUnresolved(let origin, let reason):
            Line(.warning, "cannot resolve the origin", ["origin": "\(origin)", "reason": "\(reason)"])
        case .outOfMemory(let session, let what):
            Line(.error, "out of memory for \(what)", session.map { ["session": "\($0.name)"] } ?? [:])
        default: nil
        }
    }

    private static func facts(_ session: Session, _ peer: Address, _ roundTrip: UInt32?) -> Logger.Metadata {
        var facts: Logger.Metadata = ["session": "\(session.name)", "peer": "\(peer)"]
        if let roundTrip { facts["rtt"] = "\(roundTrip)us" }
        if !session.peerName.isEmpty { facts["name"] = "\(session.peerName)" }
        return facts
    }

    private static func facts(_ session: Session, _ more: Logger.Metadata) -> Logger.Metadata {
        (session.peerName.isEmpty ? [:] : ["name": "\(session.peerName)"]).merging(["session": "\(session.name)"]) { $1 }.merging(more) { $1 }
    }

    /// That without a name is called by its flag.
    private static func reverse(_ name: String) -> Logger.Metadata { ["mapping": "\(name.isEmpty ? "-reverse" : name)"] }

    private static func name(_ mapping: String) -> Logger.Metadata { mapping.isEmpty ? [:] : ["mapping": "\(mapping)"] }

    /// What a person can do when an origin is not reached, for each cause.
    private static func hint(_ error: SystemError) -> String {
        switch error.code {
        case ECONNREFUSED, ENOENT: "is the user's server running?"
        case ETIMEDOUT: "is the host up, and does a firewall drop packets from this host?"
        case EHOSTUNREACH, ENETUNREACH, ENETDOWN: "is there a route to it, and does its name resolve to the right address?"
        case EADDRNOTAVAIL: "raise net.ipv4.ip_local_port_range, or give the origin more addresses"
        case EMFILE, ENFILE: "raise the limit of open files (LimitNOFILE=, ulimit -n)"
        case ENOBUFS, ENOMEM: "the system is short of memory"
        case EACCES, EPERM: "a firewall or a sandbox of this machine forbids it"
        default: "does the user's server work?"
        }
    }

    private static func words(_ mapping: Mapping) -> String {
        mapping.name.isEmpty ? "\(mapping.address)" : "\(mapping.name)=\(mapping.address)"
    }

    /// As a person reads it: 2.31s.
    private static func seconds(_ nanoseconds: UInt64) -> String {
        let hundredths = nanoseconds / 10_000_000
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)s"
    }
}
