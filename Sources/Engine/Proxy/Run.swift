import Glibc
import Logging
import Loop

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
    do {
        guard configuration.security != .none || !configuration.requiresSecurity else {
            throw StartFault(.configuration, "a key is required, and none is given",
                             hint: "-key=FILE on both sides; \"tele keygen -out=FILE\" makes one")
        }
        let hub = try Hub(configuration, log: logger)
        let name = configuration.role == .client ? configuration.input : configuration.output
        guard let listener = try ListeningSocket.open(name, hub) else { return .finished }
        guard let local = Socket.localAddress(listener) else {
            throw StartFault(.other, "cannot learn the listening address", hint: "please report this")
        }
        hub.listeners.add(listener)
        let host: any Host
        switch configuration.role {
        case .client:
            host = ClientHost(hub, server: configuration.output)
            hub.journal.note(.listensForUsers(local, server: configuration.output, driver: hub.loop.driverName))
        case .server:
            let found = try? Resolver.lookUp(configuration.input, passive: false).get()
            host = ServerHost(hub, origins: Origins([ServerName(configuration.input, addresses: found ?? [])]))
            hub.journal.note(.listensForCarriers(local, origin: configuration.input, driver: hub.loop.driverName))
            if !local.isLoopback, hub.credentials == nil { hub.journal.note(.isOpenToStrangers(local)) }
        }
        Privileges.drop(holdsSecrets: hub.credentials != nil)
        listening("\(local)")
        return hub.run(host)
    } catch let fault as StartFault {
        return .failed(fault)
    } catch {
        return .failed(StartFault(.other, "cannot start (\(error))", hint: "please report this"))
    }
}
