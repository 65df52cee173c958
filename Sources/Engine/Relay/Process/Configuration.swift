import Control
import Loop
import Wire

/// Everything a person can set, checked and complete. One value describes one tele process.
public struct Configuration: Equatable, Sendable {
    public enum Role: Equatable, Sendable {
        /// Beside the user's client: users connect to its mappings, the tele server is dialled at `output`.
        case client
        /// Beside the user's server: its mappings name the origins, carriers are accepted at `output`.
        case server
    }

    /// When bytes that come fast are moved by splice(2), without being copied, and kept in pipes of the kernel. Auto: where the
    /// CPU is the limit (on this machine; a stream alone on a path of less than a millisecond). Never with TLS.
    public enum Splicing: String, Sendable, CaseIterable { case auto, always, never }

    public var role: Role
    /// From the client's side to the server's: listeners of a client, origins of a server. At most `Mapping.countMaximum`; names, and
    /// targets, differ.
    public var mappings: [Mapping]
    /// From the server's side to the client's: listeners of a server, at most `Mapping.countMaximum`; origins of a client, at most
    /// `clientOriginsMaximum`. Names, and targets, differ.
    public var reverseMappings: [Mapping] = []
    /// Client: the tele server's address. Server: where carriers are accepted (port 0: a free one).
    public var output: HostPort
    /// Server: of the socket's file, where `output` is a path.
    public var outputAccess = SocketAccess()
    /// Client: servers besides `output`, in the order in which they are taken when those before are away. At most `serversMaximum` with it.
    public var otherServers: [HostPort] = []
    /// Client: seconds that new users wait for a server before they go to the next one, 0…1 day.
    public var failoverSeconds = 10
    /// Client: carriers to a server at a time, 1…`carriersMaximum`. Each has a session of its own. Nil: as many as the path needs.
    public var carriers: Int?
    /// Client: the interfaces of this host over which the server is reached.
    public var paths = Paths.all

    public enum Paths: Equatable, Sendable {
        /// As the routes say, and no other.
        case usual
        /// All that lead there: one carries, another stands by.
        case all
        /// These, the preferred one first.
        case named([String])
    }
    /// Client: through which the server is reached. Nil: straight.
    public var proxy: Proxy?
    /// Server: which mappings each client may use, and where its programs may go beside them.
    var permissions = Permissions()
    public var driver: Loop.Driver = .auto
    public var splicing = Splicing.auto
    /// Whether a keeper starts the next process when this one dies, which continues with its connections.
    public enum Keeping: String, Sendable, CaseIterable { case always, never }
    public var keeping = Keeping.never
    /// There is a keeper.
    public var isKept = false
    /// Why the file could not be read when this process followed another, so that what it said before holds. Nil: it could.
    public var unreadFile: String?
    public var security = Security.none
    /// Refuses to start without keys or certificates.
    public var requiresSecurity = false

    /// Event loops, each on a thread of its own, 1…`threadsMaximum`. With more than one there is no keeper and no upgrade.
    public var threads = 1

    /// Bytes that a session may hold in each direction, 1 MiB…16 GiB.
    public var bufferByteCount: Int = 64 << 20
    /// Bytes that all sessions of the process may hold together, at least `bufferByteCount`.
    public var memoryByteCount: Int = 1 << 30
    /// Seconds that a session without a carrier is kept, 1…31 days.
    public var holdSeconds: Int = 7 * 24 * 3600
    /// Streams open at a time, in one session, 1…1 000 000.
    public var maximumStreams: Int = 100_000
    /// Sessions at a time on a server, 1…100 000.
    public var maximumSessions: Int = 1024
    /// Seconds that a drain may last after SIGTERM before open streams are reset, 0…1 day.
    public var drainSeconds: Int = 10

    /// Server: it exits after this many seconds without a session. Nil: never.
    public var idleExitSeconds: Int?
    /// Client: it exits when it has never reached the server within this many seconds, or at once when the failure is permanent. Nil: it
    /// retries for ever.
    public var exitsOnFailureAfterSeconds: Int?
    /// Client: one user that is connected already, as a stream socket, and the name of its mapping. The process ends
    /// with it, and has no listeners.
    public var stream: Stream?

    public struct Stream: Equatable, Sendable {
        public let fd: Int32
        public let name: String
        public init(fd: Int32, name: String) {
            self.fd = fd
            self.name = name
        }
    }

    /// The path that this program was started from, where an upgrade finds the new one. Nil: not known.
    public var program: String?

    /// The version, for status and metrics.
    public var version = ""
    /// Where metrics can be scraped (HTTP).
    public var metrics: HostPort?
    /// The path of the socket by which `tele status` and its like talk to this process.
    public var control: String?
    /// Without it the process does not start.
    public var requiresControl = false

    /// Server: programs of clients may go there. `rule`: HOST:PORT, where the host is a name (`*` stands for any characters but a dot, alone
    /// for every name), an address or a network, and the port a number, a range or `*`. `client`: the only one that may; nil: all. False: it
    /// is none.
    public mutating func allowDestination(_ rule: String, client: String? = nil) -> Bool {
        guard let rule = DestinationRules.Rule(rule) else { return false }
        guard let client else {
            permissions.destinations.rules.append(rule)
            return true
        }
        permissions.change(client) { $0.destinations = DestinationRules(($0.destinations?.rules ?? []) + [rule]) }
        return true
    }

    /// Server: the client may use these mappings only, serve the users of these listeners only, have so many streams, and, unless
    /// `allowDestination` names some for it, go nowhere else if `hasDestinations`. Nil: as for those of whom nothing is said. `client`: the
    /// name of its key or certificate, or `*` for all that have no limits of their own.
    public mutating func limit(
        client: String, toMappings mappings: Set<String>?, toListeners listeners: Set<String>?, toStreams streams: Int?, hasDestinations: Bool
    ) {
        permissions.change(client) {
            $0.streams = streams
            $0.mappings = mappings
            $0.listeners = listeners
            if hasDestinations { $0.destinations = $0.destinations ?? DestinationRules() }
        }
    }

    public static let threadsMaximum = 64

    /// What the loop of this number, 0…`threads` - 1, has of the process: an equal part of what there is, and only the first has listeners of
    /// its own.
    package func part(_ number: Int) -> Configuration {
        guard threads > 1 else { return self }
        var part = self
        part.memoryByteCount = memoryByteCount / threads
        part.bufferByteCount = min(bufferByteCount, part.memoryByteCount)
        part.maximumSessions = (maximumSessions + threads - 1) / threads
        guard number > 0 else { return part }
        (part.metrics, part.control, part.idleExitSeconds, part.exitsOnFailureAfterSeconds) = (nil, nil, nil, nil)
        // The first loop has the users and the origins of these.
        part.reverseMappings = []
        return part
    }

    /// Carriers of a client to one server.
    public static let carriersMaximum = 8
    /// Servers that a client can have.
    public static let serversMaximum = 16

    /// Client: the first is preferred.
    public var servers: [HostPort] { [output] + otherServers }

    /// Origins that a client can have.
    public static let clientOriginsMaximum = Specification.clientOriginsMaximum

    /// Mappings whose users connect to this process, and those whose origins it dials.
    var listened: [Mapping] { role == .client ? mappings : reverseMappings }
    var dialled: [Mapping] { role == .client ? reverseMappings : mappings }

    /// Server: some client's programs may go somewhere.
    public var allowsDestinations: Bool { !permissions.destinations.isEmpty }

    public init(role: Role, mappings: [Mapping], output: HostPort) {
        self.role = role
        self.mappings = mappings
        self.output = output
    }

    /// Settings besides the mappings that differ in `fresh`, by the names of their flags. A running process does not change them.
    func differences(from fresh: Configuration) -> [String] {
        [
            (role == fresh.role, "the role"), (servers == fresh.servers, "out"), (failoverSeconds == fresh.failoverSeconds, "failover"),
            (carriers == fresh.carriers, "carriers"), (threads == fresh.threads, "threads"), (proxy == fresh.proxy, "proxy"),
            (outputAccess == fresh.outputAccess, "socket-mode and socket-group"),
            (driver == fresh.driver, "io"), (splicing == fresh.splicing || isKept, "splice"), (keeping == fresh.keeping, "keeper"),
            (security == fresh.security, "the keys' files"), (requiresSecurity == fresh.requiresSecurity, "require-key"),
            (bufferByteCount == fresh.bufferByteCount, "buffer"), (memoryByteCount == fresh.memoryByteCount, "memory"),
            (holdSeconds == fresh.holdSeconds, "hold"), (maximumStreams == fresh.maximumStreams, "max-streams"),
            (maximumSessions == fresh.maximumSessions, "max-sessions"), (drainSeconds == fresh.drainSeconds, "drain"),
            (idleExitSeconds == fresh.idleExitSeconds, "idle-exit"),
            (metrics == fresh.metrics, "metrics"), (control == fresh.control, "control"),
        ].filter { !$0.0 }.map(\.1)
    }

    /// All configured listening addresses.
    var listeningAddresses: Set<String> {
        var all = listened.map { "\($0.address)" }
        if role == .server { all.append("\(output)") }
        if let metrics { all.append("\(metrics)") }
        if let control { all.append("\(HostPort(path: control))") }
        return Set(all)
    }

    /// With one mapping, which has no name.
    public init(role: Role, input: HostPort, output: HostPort) {
        self.init(role: role, mappings: [Mapping(address: input)], output: output)
    }
}
