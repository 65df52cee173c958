import Loop
import Tunnel

extension Status {
    /// A way of a session to the other side: what carries it, or stands by.
    public struct Path: Codable, Sendable {
        public enum Role: String, Codable, Sendable { case carries, standsBy }

        public let role: Role
        /// Client: the interface of this host. Nil: as the route says.
        public let interface: String?
        /// TCP connections that share the session's bytes.
        public let connections: Int
        /// What TCP measures; the least of several.
        public let roundTripSeconds: Double
        /// Outgoing bytes a second while there were any to send, as TCP measured them last.
        public let bytesPerSecond: Double
        /// Of the segments that were sent with data, the part that was sent again, 0…1.
        public let lossRatio: Double
    }
}

extension Session {
    /// The carrier's path first. Empty: the session is away.
    var paths: [Status.Path] {
        guard let carrier else { return [] }
        return [Session.path(.carries, carrier)] + (standby.map { [Session.path(.standsBy, $0)] } ?? [])
    }

    private static func path(_ role: Status.Path.Role, _ carrier: Carrier) -> Status.Path {
        let facts = carrier.facts
        let (sent, repeated) = facts.reduce((0.0, 0.0)) { ($0.0 + Double($1.sentSegments), $0.1 + Double($1.repeatedSegments)) }
        return Status.Path(
            role: role, interface: carrier.interface == 0 ? nil : Interface.name(carrier.interface), connections: carrier.connections.count,
            roundTripSeconds: Double(facts.map(\.roundTripMicroseconds).filter { $0 > 0 }.min() ?? 0) / 1e6,
            bytesPerSecond: facts.reduce(0) { $0 + Double($1.deliveredBytesPerSecond) }, lossRatio: sent > 0 ? min(1, repeated / sent) : 0)
    }
}

extension Status.Session {
    /// Further connections that carry it. 0: it has its carrier's own.
    public var subflowCount: Int {
        guard let count = paths?.first?.connections, count > 1 else { return 0 }
        return count
    }
}
