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
    /// It may go away by itself in a moment.
    let isPortInUse: Bool

    public init(_ kind: Kind, _ sentence: String, hint: String) {
        self.init(kind, sentence, hint: hint, isPortInUse: false)
    }

    init(_ kind: Kind, _ sentence: String, hint: String, isPortInUse: Bool) {
        self.isPortInUse = isPortInUse
        self.kind = kind
        self.sentence = sentence
        self.hint = hint
    }
}

/// Runs one tele process until it is told to stop. Blocks the calling thread, which becomes the loop.
/// `listening` is called once, when the process accepts connections, with the numeric address that it listens on.
public func run(_ configuration: Configuration, logger: Logger, listening: (String) -> Void) -> Ending {
    do {
        let hub = try Hub(configuration, log: logger)
        let listened = configuration.role == .client ? configuration.input : configuration.output
        guard let listener = try listen(on: listened, for: hub) else { return .finished }
        hub.listener = listener
        guard let local = Socket.localAddress(hub.listener) else {
            throw StartFault(.other, "cannot learn the listening address", hint: "please report this")
        }
        switch configuration.role {
        case .client:
            hub.client = ClientHost(hub, target: configuration.output)
            logger.info("listening for users", metadata: ["address": "\(local)", "server": "\(configuration.output)",
                                                          "driver": "\(hub.loop.driverName)"])
        case .server:
            let found = try? Resolver.lookUp(configuration.input, passive: false).get()
            hub.server = ServerHost(hub, origin: configuration.input, originAddresses: found ?? [])
            logger.info("listening for carriers", metadata: ["address": "\(local)", "origin": "\(configuration.input)",
                                                             "driver": "\(hub.loop.driverName)"])
            if !local.isLoopback {
                logger.warning("no key is set: anyone who can reach this port can use the origin",
                               metadata: ["address": "\(local)"])
            }
        }
        listening("\(local)")
        hub.client?.start()
        hub.armAccept()
        return hub.run()
    } catch let fault as StartFault {
        return .failed(fault)
    } catch {
        return .failed(StartFault(.other, "cannot start (\(error))", hint: "please report this"))
    }
}

/// A process that was killed holds its port for a moment: io_uring is torn down after the process is gone. So long a
/// port in use is tried again.
private let bindPatienceNanoseconds: UInt64 = 3_000_000_000

/// The listening socket for an address as a person wrote it. Nil: asked to stop meanwhile.
private func listen(on address: HostPort, for hub: Hub) throws -> Int32? {
    let start = Clock.now()
    var wasTold = false
    while true {
        do {
            return try listen(on: address)
        } catch let fault as StartFault where fault.isPortInUse && Clock.now() < start + bindPatienceNanoseconds {
            if !wasTold {
                hub.log.notice("address in use, trying again", metadata: [
                    "address": "\(address)", "for": "\(bindPatienceNanoseconds / 1_000_000_000)s",
                    "hint": "a tele that was killed holds its port for a moment"])
                wasTold = true
            }
            if let number = hub.signals.take(), number == SIGTERM || number == SIGINT { return nil }
            usleep(50_000)
        }
    }
}

private func listen(on address: HostPort) throws -> Int32 {
    let found: [Address]
    switch Resolver.lookUp(address, passive: true) {
    case .success(let addresses): found = addresses
    case .failure(let failure):
        throw StartFault(.unavailable, "cannot listen on \(address) (\(failure))", hint: "use an address of this machine")
    }
    // The IPv6 wildcard takes IPv4 as well; where IPv6 is off, the next address serves.
    let ordered = address.host.isEmpty ? found.sorted { $0.family > $1.family } : found
    var last = SystemError(EADDRNOTAVAIL)
    for candidate in ordered {
        do throws(SystemError) {
            return try Socket.listen(on: candidate)
        } catch {
            last = error
        }
    }
    let hint = switch last.code {
    case EADDRINUSE: "another program listens there; choose another port, or leave the address out for a free one"
    case EACCES: "ports below 1024 need privileges; choose a higher one"
    case EADDRNOTAVAIL: "use an address of this machine, or :\(address.port) for all of them"
    default: "check the address"
    }
    throw StartFault(.unavailable, "cannot listen on \(address) (\(last))", hint: hint, isPortInUse: last.code == EADDRINUSE)
}
