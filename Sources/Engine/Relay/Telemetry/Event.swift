import Control
import Loop
import State
import Tunnel
import Wire

/// Everything that happens in a tele process and that a person or a graph may want to know. One case each; `EventLog`
/// writes the line and counts.
enum Event {
    // The process.
    /// `server`: the one that a client's users are carried to.
    case listensForUsers(Address, mapping: String, server: HostPort?, driver: String)
    case listensForCarriers(Address, origins: [Mapping], driver: String)
    case mappingRemoved(Mapping)
    case mappingChanged(Mapping)
    case originSet(Mapping)
    case mappingFailed(StartFault)
    case isOpenToStrangers(Address)
    case addressInUse(HostPort)
    case addressNotThere(HostPort)
    case ringUnavailable(reason: String)
    /// Bytes that it may hold, and that the machine or its control group has.
    case memoryBeyondLimit(configured: Int, limit: Int)
    case wokeAfterPause(seconds: UInt64)
    case cannotAccept(SystemError)
    case servesAdmin(Address)
    case controlUnavailable(StartFault)
    case idleTooLong
    case nothingToReload
    /// `ignored`: what was changed and takes a restart.
    case reloaded(ignored: [String])
    case reloadFailed(StartFault)
    /// `expiry`: seconds since 1970.
    case certificatesRenewed(expiry: Int64)
    /// In so many seconds, or that long ago.
    case certificateExpires(seconds: Int64)
    /// Another program shall take the process over, and cannot.
    case handoverRefused(reason: String)
    case handsOver(to: String, connections: Int)
    /// This program goes on from the state of another; `pause`: nanoseconds in which nothing moved.
    case tookOver(from: String, connections: Int, pause: UInt64)
    /// The process before died, and this one goes on with its connections.
    case recovered(connections: Int, pause: UInt64, reason: String)
    /// It could not read the configuration file, and what that said before holds.
    case configurationUnread(reason: String)
    /// The process crashed twice while it worked on it.
    case sessionGivenUp(String)
    /// What the process holds ends with it from now on.
    case keepingFailed(reason: String)
    case draining(streams: Int, seconds: Int)
    /// The process stops, and has so many connections.
    case connectionsReset(Int)
    case stopped

    // Carriers and sessions.
    case carrierUp(Session, Address, roundTripMicroseconds: UInt32?)
    case sessionOpened(Session, Address)
    /// `recovery`: since its carrier was dialled, or had come.
    case sessionResumed(Session, Address, after: UInt64, recovery: UInt64, replayed: UInt64, roundTripMicroseconds: UInt32?)
    case carrierSuspected(Session, Address)
    case carrierRecovered(Session, after: UInt64)
    /// There is a second connection over another interface.
    case carrierSpread(Session, Address)
    case standbyUp(Session, Address, interface: String)
    /// The other side could not be heard, and had something to say; this side had not.
    case carrierWasSilent(Session, for: UInt64)
    case carrierLost(Session, Address, reason: String, heldForSeconds: Int?)
    /// `isUrgent`: somebody waits who has no log to look at.
    case serverUnreachable(HostPort, ReachFailure, isUrgent: Bool)
    /// No answer for so long that a firewall may have banned this address.
    case pausesForBan(seconds: UInt64)
    /// Carriers connect and carry nothing.
    case usesSmallSegments(Int32)
    /// One attempt to reach the server; only what is new in it is told besides.
    case dialFailed
    case handshakeFailed(Address, reason: String)
    case unauthenticated(Address, reason: String)
    case strangerTurnedAway(Address, reason: String)
    case helloRefused(Address, CloseCode, reason: String)
    case sessionLost(Session, carriedOver: Int)
    /// One that did not make the session, at the first address; `home`: of the one that did.
    case answeredByAnother(Session, Address, home: Address?)
    /// A client's new users go to the first server from now on.
    case serverChosen(Session, HostPort, instead: HostPort)
    case sessionClosedByPeer(Session, CloseCode, reason: String)
    case sessionExpired(Session, heldForSeconds: Int)
    case sessionEvicted(Session)
    case sessionRevoked(Session)
    case protocolBroken(Session, rule: StaticString)

    // Streams.
    case streamOpened
    /// `-refuse-after` has passed.
    case connectionRefused(Mapping, downForSeconds: Int)
    case originConnected(after: UInt64)
    case streamReset(Session, ResetCode, mapping: String)
    case originUnreachable(Session, Mapping, SystemError)
    case targetUnknown(Session, target: UInt64, known: [String])
    /// Client: a user of a listener for proxy requests asked for what tele cannot do.
    case requestRefused(Mapping, reason: String)
    /// Server: the client's table does not name it.
    case mappingForbidden(Session, Mapping)
    /// Client: what the server has said to this side's origin; nil: nothing, because it is too old.
    case originAnswered(Session, name: String, Welcome.OriginAnswer?)
    /// Server: this client has the origin of the reverse mapping, and may serve its users; or may not.
    case clientServes(Session, Mapping)
    case listenerForbidden(Session, Mapping)
    /// Server: the client's table allows no more.
    case tooManyStreams(Session, most: Int)
    /// Server: no key has the name of a client's table.
    case clientUnknown(name: String)
    /// Server: no rule of -destinations allows it. `address`: the one that was judged, where the name has been looked up.
    case destinationForbidden(Session, Destination, address: Address?)
    case nameUnresolved(HostPort, reason: String)
    case outOfMemory(Session?, what: StaticString)
}

/// How often each thing happened since the start. Metrics and status read it.
public struct Counters: Codable, Sendable {
    public internal(set) var carriers: UInt64 = 0
    public internal(set) var carriersLost: UInt64 = 0
    public internal(set) var sessions: UInt64 = 0
    public internal(set) var resumes: UInt64 = 0
    public internal(set) var replayedBytes: UInt64 = 0
    public internal(set) var suspicions: UInt64 = 0
    public internal(set) var wrongSuspicions: UInt64 = 0
    public internal(set) var dialFailures: UInt64 = 0
    public internal(set) var sessionsLost: UInt64 = 0
    public internal(set) var sessionsExpired: UInt64 = 0
    public internal(set) var sessionsEvicted: UInt64 = 0
    public internal(set) var refusals: UInt64 = 0
    public internal(set) var faults: UInt64 = 0
    public internal(set) var streams: UInt64 = 0
    public internal(set) var streamsCarriedOver: UInt64 = 0
    public internal(set) var streamsReset: UInt64 = 0
    public internal(set) var originFailures: UInt64 = 0
    public internal(set) var acceptFailures: UInt64 = 0
    public internal(set) var pauses: UInt64 = 0
    /// Connections that -refuse-after refused.
    public internal(set) var connectionsRefused: UInt64 = 0
    /// What a client wanted, and the server's permissions do not allow.
    public internal(set) var forbidden: UInt64 = 0
    /// Client: new connections went to another server from then on.
    public internal(set) var serverChanges: UInt64 = 0

    init() {}

    /// A process that is older than some of them does not send those.
    public init(from decoder: any Decoder) throws {
        let values = try [String: UInt64](from: decoder)
        for (name, path) in Counters.all { self[keyPath: path] = values[name] ?? 0 }
    }

    mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
        for (_, path) in Counters.all { try archive.counter(&self[keyPath: path]) }
    }

    mutating func add(_ other: Counters) { for (_, path) in Counters.all { self[keyPath: path] += other[keyPath: path] } }

    private static let all: [(String, WritableKeyPath<Counters, UInt64> & Sendable)] = [
        ("carriers", \.carriers), ("carriersLost", \.carriersLost), ("sessions", \.sessions), ("resumes", \.resumes),
        ("replayedBytes", \.replayedBytes), ("suspicions", \.suspicions), ("wrongSuspicions", \.wrongSuspicions),
        ("dialFailures", \.dialFailures), ("sessionsLost", \.sessionsLost), ("sessionsExpired", \.sessionsExpired),
        ("sessionsEvicted", \.sessionsEvicted), ("refusals", \.refusals), ("faults", \.faults), ("streams", \.streams),
        ("streamsCarriedOver", \.streamsCarriedOver), ("streamsReset", \.streamsReset), ("originFailures", \.originFailures),
        ("acceptFailures", \.acceptFailures), ("pauses", \.pauses), ("connectionsRefused", \.connectionsRefused), ("forbidden", \.forbidden),
        ("serverChanges", \.serverChanges),
    ]
}
