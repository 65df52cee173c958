/// Why a stream was reset. A peer may send numbers that we do not know; they are kept as they are.
public struct ResetCode: RawRepresentable, Equatable, Hashable, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// The user's or the origin's connection was reset.
    public static let reset = ResetCode(rawValue: 0)
    /// The origin refused the connection.
    public static let refused = ResetCode(rawValue: 1)
    /// The origin cannot be reached: no route, no name, no permission.
    public static let unreachable = ResetCode(rawValue: 2)
    /// The origin did not answer in time.
    public static let timedOut = ResetCode(rawValue: 3)
    /// No room for one more stream or its connection.
    public static let tooMany = ResetCode(rawValue: 4)
    /// The tele process is ending.
    public static let stopping = ResetCode(rawValue: 5)
    /// No origin has the name that OPEN asked for.
    public static let unknownTarget = ResetCode(rawValue: 6)
    /// The server does not let this client go there.
    public static let forbidden = ResetCode(rawValue: 7)
}

/// Why a session ended or a carrier was refused.
public struct CloseCode: RawRepresentable, Equatable, Hashable, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// In order: nobody needs the session any more.
    public static let done = CloseCode(rawValue: 0)
    /// The peer broke the protocol; the reason says how.
    public static let protocolViolation = CloseCode(rawValue: 1)
    /// The session is not known here (restarted, expired, evicted), or the proof of its secret is wrong: one answer.
    public static let sessionUnknown = CloseCode(rawValue: 2)
    /// No common version.
    public static let versionUnsupported = CloseCode(rawValue: 3)
    /// No room for one more session.
    public static let tooManySessions = CloseCode(rawValue: 4)
    /// The tele process is ending.
    public static let stopping = CloseCode(rawValue: 5)
    /// The attempt is older than one that was accepted already.
    public static let stale = CloseCode(rawValue: 6)
    /// The session ran out of memory that it had been promised.
    public static let exhausted = CloseCode(rawValue: 7)
    /// Whom the session belongs to may not come any more.
    public static let unauthorized = CloseCode(rawValue: 8)
}

/// How a peer broke the protocol. `rule` is one sentence; it goes to the log and, in CLOSE, to the peer.
public struct ProtocolFault: Error, Equatable, Sendable {
    public let rule: StaticString

    public init(_ rule: StaticString) { self.rule = rule }

    public static func == (left: ProtocolFault, right: ProtocolFault) -> Bool {
        left.rule.description == right.rule.description
    }
}
