import Glibc
import Logging
import Loop

/// Why a tele process ended; the command turns it into an exit status and, where there is one, prints the fault.
public enum Ending: Equatable, Sendable {
    /// Asked to stop, everything closed in order.
    case finished
    /// `Configuration.stream` did not end in order; why, as far as it is known.
    case streamBroken(String)
    /// Could not start or go on.
    case failed(StartFault)
}

/// A fault that a person must mend, as one sentence and one hint (lower case, no final period).
public struct StartFault: Error, Equatable, Sendable {
    public enum Kind: Sendable {
        /// An address cannot be used (in use, not ours, not allowed): exit status 69.
        case unavailable
        /// The other side does not accept this one: exit status 77.
        case denied
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
/// `listening` is called once, when the process accepts connections, with the numeric address of its first listener.
/// `reconfigure` is asked on SIGHUP for the configuration as it is now; nil: there is only one.
public func run(_ configuration: Configuration, logger: Logger, reconfigure: Reconfigure? = nil,
                listening: (String) -> Void) -> Ending {
    do {
        guard configuration.security != .none || !configuration.requiresSecurity else {
            throw StartFault(.configuration, "a key is required, and none is given",
                             hint: "-key=FILE on both sides; \"tele keygen -out=FILE\" makes one")
        }
        let hub = try Hub(configuration, log: logger, reconfigure)
        let (host, first) = try configuration.role == .client ? client(hub) : server(hub)
        try inquiries(hub)
        Privileges.drop(holdsSecrets: hub.credentials != nil)
        if let first { listening("\(first)") }
        return hub.run(host)
    } catch let fault as StartFault {
        return fault == ListeningSocket.interrupted ? .finished : .failed(fault)
    } catch {
        return .failed(StartFault(.other, "cannot start (\(error))", hint: "please report this"))
    }
}

/// Reads the configuration again.
public typealias Reconfigure = () throws(StartFault) -> Configuration

private func client(_ hub: Hub) throws(StartFault) -> (any Host, Address?) {
    if hub.configuration.stream != nil { return (ClientHost(hub, server: hub.configuration.output), nil) }
    var first: Address?
    for mapping in hub.configuration.mappings {
        for socket in try listeningSockets(hub, mapping.name, mapping.address, mapping.access) {
            hub.listeners.add(socket, .users(mapping))
            hub.journal.note(.listensForUsers(socket.address, mapping: mapping.name, server: hub.configuration.output,
                                              driver: hub.loop.driverName))
            first = first ?? socket.address
        }
    }
    guard let first else { throw StartFault(.configuration, "there is nothing to listen on", hint: "name a mapping") }
    return (ClientHost(hub, server: hub.configuration.output), first)
}

private func server(_ hub: Hub) throws(StartFault) -> (any Host, Address?) {
    let sockets = try listeningSockets(hub, "", hub.configuration.output, hub.configuration.outputAccess)
    let origins = Origins()
    _ = origins.set(hub.configuration.mappings)
    for socket in sockets {
        hub.listeners.add(socket, .carriers)
        hub.journal.note(.listensForCarriers(socket.address, origins: hub.configuration.mappings, driver: hub.loop.driverName))
        if !socket.address.isLoopback, hub.credentials == nil { hub.journal.note(.isOpenToStrangers(socket.address)) }
    }
    return (ServerHost(hub, origins: origins), sockets.first?.address)
}

/// Where people and graphs ask: a socket file for this user, and an address for metrics.
private func inquiries(_ hub: Hub) throws(StartFault) {
    if let address = hub.configuration.metrics {
        for socket in try listeningSockets(hub, "metrics", address) {
            hub.listeners.add(socket, .inquiries(mayCommand: false))
            hub.journal.note(.answersInquiries(socket.address))
        }
    }
    try hub.activation.complainAboutRest()
    guard let path = hub.configuration.control else { return }
    do throws(StartFault) {
        let socket = try ListeningSocket(HostPort(path: path), access: .owner, hub, patience: .zero)
        hub.listeners.add(socket, .inquiries(mayCommand: true))
    } catch {
        // Asked for, it must be there; else it is a convenience.
        guard !hub.configuration.requiresControl else { throw error }
        hub.journal.note(.controlUnavailable(error))
    }
}

/// Those that the service manager has opened for it, or one of our own.
private func listeningSockets(_ hub: Hub, _ name: String, _ address: HostPort,
                              _ access: SocketAccess = SocketAccess()) throws(StartFault) -> [ListeningSocket] {
    let given = try hub.activation.sockets(for: name)
    return given.isEmpty ? try ListeningSocket.all(address, access: access, hub) : given
}

/// Reads the files that the configuration names, as a start would, and does nothing else. Root may look at the keys of any user. Returns
/// what a person should know, as sentences.
public func verify(_ configuration: Configuration) throws(StartFault) -> [String] {
    let credentials = try Credentials(configuration, acceptsKeysOfOthers: geteuid() == 0)
    var notes: [String] = []
    if let expiry = credentials?.expiry {
        let days = (expiry - Int64(time(nil))) / 86400
        notes.append(days < 0 ? "a certificate expired \(-days) days ago" : "the first certificate expires in \(days) days")
    }
    if let limit = Memory.limit, configuration.memoryByteCount > limit / 10 * 9 {
        notes.append("memory is \(configuration.memoryByteCount >> 20)MiB, more than the \(limit >> 20)MiB that a process may use here")
    }
    return notes
}
