/// What a server lets each of its clients do, by the name of the client's key or certificate. Nothing said means every mapping, every
/// listener, and the destinations that hold for all.
public struct Permissions: Equatable, Sendable {
    /// Of one client. Nil: as for those of whom nothing is said.
    public struct Client: Equatable, Sendable {
        /// The names of the origins that it may use.
        public var mappings: Set<String>?
        /// The names of the server's listeners whose users it may serve.
        public var listeners: Set<String>?
        /// Where its programs may go.
        public var destinations: DestinationRules?
        /// How many streams it may have at a time, in all of its sessions.
        public var streams: Int?

        public init() {}
    }

    /// The table of every client that has none of its own.
    public static let others = "*"

    public private(set) var clients: [String: Client] = [:]
    /// Where the programs of all clients may go.
    public var destinations = DestinationRules()

    public init() {}

    public mutating func change(_ name: String, _ body: (inout Client) -> Void) { body(&clients[name, default: Client()]) }

    private func client(_ name: String) -> Client? { clients[name] ?? clients[Permissions.others] }

    public func allow(_ name: String, mapping: String) -> Bool { client(name)?.mappings?.contains(mapping) ?? true }

    public func allow(_ name: String, listener: String) -> Bool { client(name)?.listeners?.contains(listener) ?? true }

    /// Nil: as many as anybody.
    public func streams(of name: String) -> Int? { client(name)?.streams }

    public func destinations(of name: String) -> DestinationRules { client(name)?.destinations ?? destinations }
}
