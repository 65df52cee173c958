import Logging

/// Why a tele process ended; the command turns it into an exit status and, where there is one, prints the fault.
public enum Ending: Equatable, Sendable {
    /// Asked to stop, everything closed in order.
    case finished
    /// Could not start or go on.
    case failed(StartFault)
}

/// A fault that a person must mend, as one sentence and one hint (lower case, no final period).
public struct StartFault: Error, Equatable, Sendable {
    public enum Kind: Sendable {
        /// An address cannot be used (in use, not ours, not allowed): exit status 69.
        case unavailable
        /// Configured so that it cannot work: exit status 78.
        case configuration
        /// Anything else: exit status 1.
        case other
    }
    public let kind: Kind
    public let sentence: String
    public let hint: String

    public init(_ kind: Kind, _ sentence: String, hint: String) {
        self.kind = kind
        self.sentence = sentence
        self.hint = hint
    }
}

/// Runs one tele process until it is told to stop. Blocks the calling thread, which becomes the loop.
/// `listening` is called once, when the process accepts connections, with the numeric address that it listens on.
public func run(_ configuration: Configuration, logger: Logger, listening: (String) -> Void) -> Ending {
    .failed(StartFault(.other, "not built yet", hint: "wait"))
}
