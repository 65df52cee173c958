import Loop
import Synchronization
import Wire

/// The event loops of one process, each on a thread of its own, with its own ring, memory, sessions and carriers (docs/internals/threads.md).
/// They share this and nothing else: a mailbox for each, and what each tells the others about itself.
///
/// The first has what a process has once: listeners, signals, files, commands, the service manager.
final class LoopGroup: Sendable {
    /// What one loop is to the others.
    final class Station: Sendable {
        let mailbox = Mailbox<LoopMessage>()
        /// Connections of users on a client, sessions on a server; and local sockets.
        let load = Atomic(0)
        let connections = Atomic(0)
        /// Accepted connections that it was given, so far, and that `load` counts or has counted.
        let received = Atomic(0)
        let readiness = Atomic(Readiness.ready.rawValue)
        /// Turns that it has made.
        let turns = Atomic(0)
        let hasEnded = Atomic(false)
    }

    /// Whether a loop may be given one more connection.
    enum Readiness: UInt8 {
        case full, ready
        /// A user would not wait for a carrier.
        case best
    }

    let stations: [Station]
    /// Of the process: every loop answers with it.
    let identity: ServerIdentity?
    let quotas = StreamQuotas()

    /// `identity`: on a server.
    init(count: Int, identity: ServerIdentity?) {
        stations = (0..<count).map { _ in Station() }
        self.identity = identity
    }

    var count: Int { stations.count }

    /// The loop that has the session: its identity says so.
    func owner(of identity: SessionIdentity) -> Int { Int(identity.low % UInt64(count)) }

    /// As random as `number`, for a session of this loop.
    func mark(_ number: UInt64, for loop: Int) -> UInt64 {
        let base = number - number % UInt64(count)
        return UInt64(loop) <= .max - base ? base + UInt64(loop) : base - UInt64(count) + UInt64(loop)
    }
}
