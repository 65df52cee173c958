import Loop

/// Everything a person can set, checked and complete. One value describes one tele process.
public struct Configuration: Sendable {
    public enum Role: Sendable {
        /// Beside the user's client: users connect to `input`, the tele server is dialled at `output`.
        case client
        /// Beside the user's server: the origin is dialled at `input`, carriers are accepted at `output`.
        case server
    }

    public var role: Role
    /// Client: where users connect (port 0: a free one). Server: the origin's address.
    public var input: HostPort
    /// Client: the tele server's address. Server: where carriers are accepted (port 0: a free one).
    public var output: HostPort
    public var driver: Loop.Driver = .auto
    public var security = Security.none
    /// Refuses to start without keys or certificates.
    public var requiresSecurity = false

    /// Bytes that a session may hold in each direction, 1 MiB…16 GiB.
    public var bufferByteCount: Int = 64 << 20
    /// Bytes that all sessions of the process may hold together, at least `bufferByteCount`.
    public var memoryByteCount: Int = 1 << 30
    /// Seconds that a session without a carrier is kept, 1…31 days.
    public var holdSeconds: Int = 24 * 3600
    /// Streams open at a time, in one session, 1…1 000 000.
    public var maximumStreams: Int = 100_000
    /// Sessions at a time on a server, 1…100 000.
    public var maximumSessions: Int = 1024
    /// Seconds that a drain may last after SIGTERM before open streams are reset, 0…1 day.
    public var drainSeconds: Int = 10

    public init(role: Role, input: HostPort, output: HostPort) {
        self.role = role
        self.input = input
        self.output = output
    }
}
