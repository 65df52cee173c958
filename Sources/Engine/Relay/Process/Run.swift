import Glibc
import Logging
import Loop
import State

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
/// `reconfigure` is asked on SIGHUP for the configuration as it is now; nil: there is only one. `flush` is called before another program
/// takes the process over: what waits in its threads is lost.
public func run(
    _ configuration: Configuration, logger: Logger, reconfigure: Reconfigure? = nil, flush: @escaping () -> Void = {},
    listening: (String) -> Void
) -> Ending {
    let environment = ServiceManager.Environment()
    do {
        guard configuration.security != .none || !configuration.requiresSecurity else {
            throw StartFault(
                .configuration, "a key is required, and none is given",
                hint: "-key=FILE on both sides; \"tele keygen -out=FILE\" makes one")
        }
        let states = try Successor.takeStates()
        let remains = states.isEmpty ? try Remains.ofThisProcess : nil
        guard states.isEmpty || states.count == configuration.threads else { throw StateFault("it is that of \(states.count) threads") }
        let (relay, first) = try makeProcess(configuration.part(0), logger, reconfigure, state: states.first, remains: remains)
        if let state = states.first { Successor.release(state) }
        relay.handover.flush = flush
        forgetPredecessor(relay)
        Privileges.drop(holdsSecrets: relay.credentials != nil)
        if configuration.threads > 1 {
            relay.lead(configuration.threads)
            try LoopThread.startOthers(of: relay, configuration, logger, states: states)
        }
        if let first { listening("\(first)") }
        return relay.run()
    } catch let fault as StartFault {
        return fault == ListeningSocket.interrupted ? .finished : .failed(fault)
    } catch let fault as StateFault {
        // Once more, from nothing: what was left open closes with this program, or now.
        logger.error("cannot use the state of the program before; its connections are reset", metadata: ["reason": "\(fault.reason)"])
        flush()
        if let keeper = Keeper.ofThisProcess {
            keeper.kept = nil
            OpenDescriptors.close(Keeper.inherited)
            return run(configuration, logger: logger, reconfigure: reconfigure, flush: flush, listening: listening)
        }
        guard let program = configuration.program else { return .failed(StartFault(.other, "cannot start anew", hint: "start it again")) }
        let error = environment.whileRestored { Successor.startAfresh(program) }
        return .failed(StartFault(.other, "cannot run \(program) (\(error))", hint: "start it again"))
    } catch {
        return .failed(StartFault(.other, "cannot start (\(error))", hint: "please report this"))
    }
}

/// What remains to be done when this process has committed what it took over from one that died: until then that one's descriptors are all
/// that there is.
private func forgetPredecessor(_ relay: RelayProcess) {
    guard let keeper = Keeper.ofThisProcess else { return }
    let (inheritance, closeRest) = (relay.inheritance, relay.forgetPredecessor)
    let isFirst = keeper.deaths == 0 && keeper.failure == nil && inheritance == nil
    let others = isFirst ? [] : Keeper.inherited.subtracting(inheritance?.descriptors ?? []).subtracting(inheritance?.adopted ?? [])
    relay.forgetPredecessor = { relay in
        closeRest(relay)
        if let descriptor = relay.keptDescriptor { keeper.kept = descriptor }
        OpenDescriptors.close(keeper.configurationDescriptor.map { others.subtracting([$0]) } ?? others)
        // What is left of them is this worker's own from here on.
        Keeper.inherited = []
    }
}

/// A process that listens and has not begun, and the address of its first listener. `state`: what another program in this process left; it
/// is not needed afterwards. `remains`: the same of a process that died.
package func makeProcess(
    _ configuration: Configuration, _ logger: Logger, _ reconfigure: Reconfigure?, state: UnsafeRawBufferPointer? = nil, remains: Remains? = nil
) throws -> (RelayProcess, Address?) {
    let inheritance = if let remains { try Inheritance(remains) } else { try state.map { try Inheritance($0) } }
    let relay = try RelayProcess(configuration, log: logger, reconfigure, inheritance: inheritance)
    inheritance?.closeStrays()
    inheritance?.closeOthers(configuration.listeningAddresses)
    let first = try configuration.role == .client ? becomeClient(relay) : becomeServer(relay)
    try adminListeners(relay)
    if let inheritance {
        try relay.restoreState(inheritance)
        // With a keeper not before all is committed: a successor may need it.
        if inheritance.isCrash || Keeper.ofThisProcess != nil {
            relay.forgetPredecessor = { _ in inheritance.closeRest() }
        } else {
            inheritance.closeRest()
        }
    }
    return (relay, first)
}

/// Whether a process of this configuration can go on from a state of this version, which the other program of `question`
/// (`VERSION:ROLE`, with several threads `VERSION:ROLE:THREADS`) has. Reads the keys, asks the kernel for its driver, and begins nothing.
public func rehearse(_ configuration: Configuration, for question: String) throws(StartFault) {
    let words = question.split(separator: ":")
    let readable = Successor.readableVersions
    guard 2...3 ~= words.count, let version = Int(words[0]), readable.contains(version) else {
        throw StartFault(
            .configuration, "it reads states of versions \(readable.lowerBound) to \(readable.upperBound), and this is one of version \(words.first ?? "")",
            hint: "restart the service")
    }
    guard words[1] == (configuration.role == .client ? "client" : "server") else {
        throw StartFault(.configuration, "the configuration is now that of the other side", hint: "restart the service")
    }
    let threads = words.count == 3 ? Int(words[2]) : 1
    guard threads == configuration.threads else {
        throw StartFault(.configuration, "the configuration has another number of threads now", hint: "restart the service")
    }
    _ = try verify(configuration)
    guard configuration.security != .none || !configuration.requiresSecurity else {
        throw StartFault(.configuration, "a key is required, and none is given", hint: "-key=FILE on both sides")
    }
    do throws(SystemError) { _ = try Loop(driver: configuration.driver) } catch {
        throw StartFault(.unavailable, "it cannot start the \(configuration.driver.rawValue) driver (\(error))", hint: "use -io=auto")
    }
}

/// Reads the configuration again.
public typealias Reconfigure = () throws(StartFault) -> Configuration

private func becomeClient(_ relay: RelayProcess) throws(StartFault) -> Address? {
    relay.become(try Client(relay))
    guard relay.configuration.stream == nil else { return nil }
    var first: Address?
    _ = relay.origins.set(relay.configuration.dialled)
    try userListeners(relay) { first = first ?? $0 }
    guard first != nil || relay.inheritance != nil || !relay.configuration.dialled.isEmpty else {
        throw StartFault(.configuration, "there is nothing to listen on", hint: "name a mapping")
    }
    return first
}

private func userListeners(_ relay: RelayProcess, _ listening: (Address) -> Void = { _ in }) throws(StartFault) {
    for mapping in relay.configuration.listened {
        try tolerating(relay) { () throws(StartFault) in
            for socket in try listeningSockets(relay, .users, mapping.name, mapping.address, mapping.access) {
                relay.listeners.add(socket, mapping)
                listening(socket.address)
            }
        }
    }
}

/// A process that takes over from another program does not end because it cannot have a new address: its connections would end too.
private func tolerating(_ relay: RelayProcess, _ listen: () throws(StartFault) -> Void) throws(StartFault) {
    do throws(StartFault) { try listen() } catch {
        guard relay.inheritance != nil else { throw error }
        relay.events.note(.mappingFailed(error))
    }
}

private func becomeServer(_ relay: RelayProcess) throws(StartFault) -> Address? {
    let sockets = try carrierSockets(relay)
    _ = relay.origins.set(relay.configuration.dialled)
    for socket in sockets {
        relay.listeners.add(socket, .carriers)
        relay.events.note(.listensForCarriers(socket.address, origins: relay.configuration.mappings, driver: relay.loop.driverName))
        if !socket.address.isLoopback, relay.credentials == nil { relay.events.note(.isOpenToStrangers(socket.address)) }
    }
    relay.become(Server(relay))
    try userListeners(relay)
    return sockets.first?.address
}

/// A server that takes over from another program, and cannot have its new address, goes on with the old one.
private func carrierSockets(_ relay: RelayProcess) throws(StartFault) -> [ListeningSocket] {
    do throws(StartFault) {
        return try listeningSockets(relay, .carriers, "", relay.configuration.output, relay.configuration.outputAccess)
    } catch {
        guard let former = relay.inheritance?.formerCarrierAddress, former != relay.configuration.output else { throw error }
        relay.events.note(.mappingFailed(error))
        relay.configuration.output = former
        return try listeningSockets(relay, .carriers, "", former, relay.configuration.outputAccess)
    }
}

/// Where people and graphs ask: a socket file for this user, and an address for metrics.
private func adminListeners(_ relay: RelayProcess) throws(StartFault) {
    if let address = relay.configuration.metrics {
        try tolerating(relay) { () throws(StartFault) in
            for socket in try listeningSockets(relay, .metrics, "metrics", address) {
                relay.listeners.add(socket, .admin(isPrivileged: false))
                relay.events.note(.servesAdmin(socket.address))
            }
        }
    }
    try relay.activation.complainAboutRest()
    guard let path = relay.configuration.control else { return }
    do throws(StartFault) {
        let inherited = relay.inheritance?.claim(.control, "", HostPort(path: path)).first
        let socket = if let inherited { inherited } else { try ListeningSocket(HostPort(path: path), access: .owner, relay, patience: .zero) }
        relay.listeners.add(socket, .admin(isPrivileged: true))
    } catch {
        // Required only if it was configured.
        guard !relay.configuration.requiresControl || relay.inheritance != nil else { throw error }
        relay.events.note(.controlUnavailable(error))
    }
}

/// Sockets that the program before had for this, or the service manager opened for this name, or new ones.
private func listeningSockets(
    _ relay: RelayProcess, _ kind: Inheritance.Listener.Kind, _ name: String, _ address: HostPort,
    _ access: SocketAccess = SocketAccess()
) throws(StartFault) -> [ListeningSocket] {
    if let inherited = relay.inheritance?.claim(kind, kind == .users ? name : "", address), !inherited.isEmpty {
        // Its mode and group may be configured otherwise now.
        for path in inherited.compactMap(\.address.path) where access != SocketAccess() { try? access.apply(to: path) }
        return inherited
    }
    // One that was about to stop listens no more.
    if let inheritance = relay.inheritance, inheritance.stopping != .running, kind != .metrics { return [] }
    let given = try relay.activation.sockets(for: name)
    guard given.isEmpty else { return given }
    // Users wait while a process is taken over.
    return try ListeningSocket.all(address, access: access, relay, patience: relay.inheritance == nil ? Policy.bindPatience : .zero)
}

/// Reads the files that the configuration names, as a start would, and does nothing else. Root may look at the keys of any user. Returns
/// what a person should know, as sentences.
public func verify(_ configuration: Configuration) throws(StartFault) -> [String] {
    let credentials = try Credentials(configuration, acceptsKeysOfOthers: geteuid() == 0)
    _ = try configuration.proxy?.credentials(acceptsOthers: geteuid() == 0)
    if configuration.role == .client { _ = try ProxyRequests.passwords(of: configuration.mappings, acceptsOthers: geteuid() == 0) }
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
