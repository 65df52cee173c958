import Glibc
import Loop

/// The listening socket for an address as a person wrote it.
enum ListeningSocket {
    /// A port in use is tried again for a while, with one line: a tele that was killed holds its port for a moment. Nil: the
    /// process was told to stop meanwhile.
    static func open(_ name: HostPort, _ hub: Hub) throws(StartFault) -> Int32? {
        let candidates = try addresses(of: name)
        let start = Clock.now()
        var wasTold = false
        while true {
            var last = SystemError(EADDRNOTAVAIL)
            for candidate in candidates {
                do throws(SystemError) {
                    return try Socket.listen(on: candidate)
                } catch {
                    last = error
                }
            }
            guard last.code == EADDRINUSE, Clock.now() < start + Policy.bindPatience.nanoseconds else {
                throw fault(name, last)
            }
            if !wasTold { hub.journal.note(.addressInUse(name)) }
            wasTold = true
            if let number = hub.signals.take(), number == SIGTERM || number == SIGINT { return nil }
            usleep(UInt32(Policy.retryDelay.nanoseconds / 1000))
        }
    }

    private static func addresses(of name: HostPort) throws(StartFault) -> [Address] {
        switch Resolver.lookUp(name, passive: true) {
        case .success(let found):
            // The IPv6 wildcard takes IPv4 as well; where IPv6 is off, the next address serves.
            return name.host.isEmpty ? found.sorted { $0.family > $1.family } : found
        case .failure(let failure):
            throw StartFault(.unavailable, "cannot listen on \(name) (\(failure))", hint: "use an address of this machine")
        }
    }

    private static func fault(_ name: HostPort, _ error: SystemError) -> StartFault {
        let hint = switch error.code {
        case EADDRINUSE: "another program listens there; choose another port, or leave the address out for a free one"
        case EACCES: "ports below 1024 need privileges; choose a higher one"
        case EADDRNOTAVAIL: "use an address of this machine, or :\(name.port) for all of them"
        default: "check the address"
        }
        return StartFault(.unavailable, "cannot listen on \(name) (\(error))", hint: hint)
    }
}
