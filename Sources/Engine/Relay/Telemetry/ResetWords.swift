import Wire

/// Why a stream was reset, for people.
extension ResetCode: CustomStringConvertible {
    public var description: String {
        switch self {
        case .reset: "the other side reset the connection"
        case .refused: "the origin refused the connection"
        case .unreachable: "the origin cannot be reached"
        case .timedOut: "the origin did not answer in time"
        case .tooMany: "the server has no room for one more connection"
        case .stopping: "the server is stopping"
        case .unknownTarget: "the server has no origin of this name"
        case .forbidden: "the server does not let this client go there"
        default: "code \(rawValue)"
        }
    }
}
