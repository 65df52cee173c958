import Loop
import State

/// What one loop of a process tells another. What it owns, a descriptor or a channel, is the taker's from then on.
enum LoopMessage: @unchecked Sendable {
    /// To all but the first: the mappings of the first one's listeners, by their places. Nil: it has none.
    case places([Mapping?])
    /// A connection was accepted for this loop, at the place of a listener: of a user, or a carrier.
    case accepted(fd: Int32, place: Int)
    /// A carrier has said HELLO to a session of this loop.
    case carrier(CarrierTransfer)
    /// The configuration was read again: this loop's part of it. Nil: only the files that it names.
    case reload(Configuration?)
    case renewCertificates
    case stop(gently: Bool)
    /// SIGUSR1, or the machine slept.
    case pathMayHaveChanged
    case reconnect
    /// A loop of a client hears nothing from its server.
    case doubt
    /// The first wants to know what this loop does. The number tells the questions apart.
    case report(Int)
    case reported(Int, LoopReport)
    /// Another program takes over: nothing begins from here on, and the loop leaves what it has. The number tells the attempts apart.
    case settle(attempt: Int)
    /// Of each of the others.
    case settled(loop: Int, attempt: Int, Result<Successor.Legacy, StateFault>)
    /// No other program takes over.
    case goOn
    /// Nothing but a turn is wanted.
    case wake
    /// To the first: a loop has ended.
    case ended(Ending)
}
