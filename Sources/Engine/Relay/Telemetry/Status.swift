import Glibc
import Loop
import Time
import Tunnel

/// What one tele process is doing, at one moment: for `tele status`, and for whoever reads its JSON. Times are in seconds,
/// sizes in bytes.
public struct Status: Codable, Sendable {
    public struct Mapping: Codable, Sendable {
        public let name: String
        public let address: String
        /// Who chooses where its users go, unless the mapping does (`Mapping.Kind`); its users connect to the server. Nil: neither, or the
        /// process is older than these fields.
        public let kind: String?
        public let isReverse: Bool?
    }

    /// Of one mapping, or of one client by the name that it authenticated as, since the start.
    public struct Traffic: Codable, Sendable {
        public let name: String
        /// Connections now, and so far; of a client: sessions.
        public let open: Int
        public let opened: UInt64
        public let readBytes: UInt64
        public let takenBytes: UInt64
    }

    public struct Session: Codable, Sendable {
        public enum Carrier: String, Codable, Sendable {
            case up
            /// An answer is overdue; a new carrier is dialled beside it.
            case suspected
            /// There is none: locals wait.
            case away
        }

        public let session: String
        public let peer: String
        /// Client with several servers: the one that has it, as it is configured, and whether new connections go there.
        public let server: String?
        public let isCurrent: Bool?
        /// As it authenticated; empty without keys.
        public let name: String
        public let carrier: Carrier
        /// Client: the interface of this host that the carrier uses, and that of a second connection which can take over at once. Nil: it is not
        /// known, there is none, or the process is older than these fields.
        public let interface: String?
        public let standby: String?
        /// The ways that carry it and stand by. Nil: the process is older than this field.
        public let paths: [Path]?
        /// Since when the carrier is as it is.
        public let carrierSeconds: Double
        public let roundTripSeconds: Double
        public let streams: Int
        /// Carriers so far.
        public let epoch: Int
        /// Bytes from locals here that the other side has not acknowledged, and for how long the oldest waits.
        public let backlogBytes: Int
        public let backlogSeconds: Double
        /// Bytes from the other side that locals here have not taken.
        public let undeliveredBytes: Int
        public let sentBytes: UInt64
        public let deliveredBytes: UInt64
    }

    public struct Outage: Codable, Sendable {
        public let session: String
        /// How long ago it ended.
        public let agoSeconds: Double
        /// From its first sign to the new carrier.
        public let lengthSeconds: Double
        /// From the start of the dial that brought the new carrier; 0: the old one went on by itself.
        public let recoverySeconds: Double
        public let replayedBytes: UInt64
    }

    public let version: String
    public let pid: Int
    public let role: String
    /// The tele servers that are dialled, or the address that carriers come to.
    public let out: String
    public let mappings: [Mapping]
    public let driver: String
    public let security: String
    /// When the first of this side's certificates expires, in seconds since 1970; nil without certificates.
    public let certificateExpiry: Double?
    /// running, draining or stopping.
    public let state: String
    public let uptimeSeconds: Double
    /// Of the program in the process, which an upgrade replaces. Nil, as the next two: the process is older than this field.
    public let programUptimeSeconds: Double?
    /// Upgrades so far, and the pause of the last one.
    public let upgrades: UInt64?
    public let upgradePauseSeconds: Double?
    /// How often another process went on after one that had died (`-keeper`), and for how long nothing moved the last time. Nil: the process is
    /// older than these fields.
    public let recoveries: UInt64?
    public let recoveryPauseSeconds: Double?
    /// Event loops, each on a thread of its own, and those of them that do not say in time what they do: that is missing here. Nil: one.
    public var threads: Int?
    public var silentThreads: Int?
    public var connections: Int
    public var readBytes: UInt64
    public var takenBytes: UInt64
    /// Of them, those that went past memory: spliced into carriers, and passed on from carriers.
    public var splicedBytes, passedBytes: UInt64
    public var heldBytes: Int
    public var heldBytesMaximum: Int
    /// What one session may hold.
    public let sessionBytesMaximum: Int
    public var waitingBytes: Int
    public let residentBytes: Int
    public var sessions: [Session]
    /// At most 100 of each, and the others together.
    public var mappingTraffic, clientTraffic: [Traffic]
    /// The last ones, oldest first.
    public var outages: [Outage]
    public var counters: Counters
}

extension Status.Traffic {
    init(_ name: String, _ count: Traffic.Count) {
        self.init(name: name, open: count.open, opened: count.opened, readBytes: count.read, takenBytes: count.taken)
    }
}

extension RelayProcess {
    /// This process and what is open in it, for people.
    var words: String {
        let what =
            configuration.role == .client
            ? "the client of \(configuration.servers.map { "\($0)" }.joined(separator: ", "))"
            : "the server at \(listeners.carrierAddress.map { "\($0)" } ?? "\(configuration.output)")"
        return
            "\(what), process \(Keeper.knownProcess): \(connectionCount) connection\(connectionCount == 1 ? "" : "s") open, at most \(configuration.drainSeconds) s"
    }

    /// Why a user who comes now would wait, or be refused. Nil: nothing keeps it.
    var unreadiness: String? {
        guard stopping.isRunning else { return stopping.isDraining ? "draining" : "stopping" }
        return host.unreadiness
    }

    var status: Status {
        let state = stopping.isRunning ? "running" : stopping.isDraining ? "draining" : "stopping"
        let addresses = listeners.addresses
        func row(_ mapping: Mapping, isReverse: Bool) -> Status.Mapping {
            let isListened = isReverse == (configuration.role == .server)
            let address = isListened ? addresses[mapping.name].map { "\($0)" } : nil
            return Status.Mapping(
                name: mapping.name, address: address ?? "\(mapping.address)", kind: mapping.kind == .fixed ? nil : mapping.kind.rawValue,
                isReverse: isReverse ? true : nil)
        }
        let total = locals.table.traffic.total
        let security =
            switch configuration.security {
            case .none: "none"
            case .keys: "key"
            case .certificates: "certificates"
            }
        return Status(
            version: configuration.version, pid: Int(Keeper.knownProcess), role: configuration.role == .client ? "client" : "server",
            out: listeners.carrierAddress.map { "\($0)" } ?? configuration.servers.map { "\($0)" }.joined(separator: ", "),
            mappings: configuration.mappings.map { row($0, isReverse: false) } + configuration.reverseMappings.map { row($0, isReverse: true) },
            driver: loop.driverName, security: security, certificateExpiry: credentials?.expiry.map(Double.init), state: state,
            uptimeSeconds: seconds(since: startedAt), programUptimeSeconds: seconds(since: programStartedAt), upgrades: handover.takeovers,
            upgradePauseSeconds: Double(handover.lastPause) / 1e9, recoveries: handover.recoveries,
            recoveryPauseSeconds: Double(handover.recoveryPause) / 1e9,
            connections: locals.count, readBytes: total.read, takenBytes: total.taken,
            splicedBytes: sendSplice.byteCount, passedBytes: receiveSplice.byteCount,
            heldBytes: budget.held, heldBytesMaximum: budget.total, sessionBytesMaximum: budget.sessionMaximum, waitingBytes: budget.waiting,
            residentBytes: Memory.residentByteCount, sessions: sessions.all.filter { client?.isPending($0) != true }.map(status),
            mappingTraffic: locals.table.traffic.byLabel(Policy.labelsMaximum, label).map(Status.Traffic.init),
            clientTraffic: Traffic.bounded(sessions.clients, Policy.labelsMaximum).map(Status.Traffic.init),
            outages: events.outages.map { outage in
                Status.Outage(
                    session: outage.session, agoSeconds: seconds(since: outage.endedAt),
                    lengthSeconds: Double(outage.length) / 1e9, recoverySeconds: Double(outage.recovery) / 1e9,
                    replayedBytes: outage.replayed)
            }, counters: events.counters)
    }

    private func status(_ session: Session) -> Status.Session {
        let (carrier, since): (Status.Session.Carrier, UInt64) =
            switch session.link {
            case .detached(let since): (.away, since)
            case .suspected(let since): (.suspected, since)
            case .attached, .inDoubt: (.up, session.carrier?.openedAt ?? now)
            }
        let uplink = client?.hasSeveralServers == true ? client?.uplink(of: session) : nil
        return Status.Session(
            session: session.name, peer: session.carrier.map { "\($0.peer)" } ?? "", server: uplink.map { "\($0.target)" },
            isCurrent: uplink.map { $0 === client?.current }, name: session.peerName, carrier: carrier,
            interface: interface(session.carrier), standby: interface(session.standby),
            paths: session.paths,
            carrierSeconds: seconds(since: since), roundTripSeconds: roundTrip(session),
            streams: session.endpoint.streamCount, epoch: Int(session.endpoint.epoch), backlogBytes: session.account.held,
            backlogSeconds: session.account.held == 0 ? 0 : session.age.since.map { seconds(since: $0.nanoseconds) } ?? 0,
            undeliveredBytes: session.endpoint.unconsumedByteCount, sentBytes: session.endpoint.payloadSent,
            deliveredBytes: session.endpoint.payloadTaken)
    }

    private func interface(_ carrier: Carrier?) -> String? {
        guard let carrier, carrier.interface != 0 else { return nil }
        return Interface.name(carrier.interface)
    }

    /// The last answer to a PING, or what TCP measured, if that is less: TCP counts the time by which an idle peer's kernel delays its
    /// acknowledgments.
    private func roundTrip(_ session: Session) -> Double {
        let pinged = Double(session.endpoint.latestRoundTrip.nanoseconds) / 1e9
        guard let micro = session.carrier?.facts.map(\.roundTripMicroseconds).min(), micro > 0 else { return pinged }
        return min(pinged, Double(micro) / 1e6)
    }

    private func seconds(since time: UInt64) -> Double { now > time ? Double(now - time) / 1e9 : 0 }
}
