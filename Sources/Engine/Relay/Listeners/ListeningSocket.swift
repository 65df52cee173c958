import Control
import Glibc
import Loop
import Time
import Tunnel

/// A listening socket for an address as a person wrote it, or one that the process was started with.
struct ListeningSocket {
    let fd: Int32
    /// In numbers.
    let address: Address
    /// The service manager has it too.
    let isAdopted: Bool
    /// Whoever wrote it named a link (`fe80::1%eth0`), whose number changes when the link is made anew.
    private(set) var linkName: HostPort?

    /// One for the address; for `localhost` one for each loopback address that the name has here, so that users of either family get in.
    /// `found`: the name's addresses, as they were just looked up.
    static func all(
        _ name: HostPort, access: SocketAccess = SocketAccess(), _ relay: RelayProcess, patience: Interval = Policy.bindPatience,
        found: Resolver.Answer? = nil
    ) throws(StartFault) -> [ListeningSocket] {
        let found = if let found { try addresses(name, found.result) } else { try addresses(of: name) }
        let first = try ListeningSocket(name, found, access: access, relay, patience: patience)
        guard name.host.lowercased() == "localhost", name.port != 0 else { return [first] }
        var result = [first]
        for candidate in found where candidate != first.address && candidate.isLoopback {
            do throws(SystemError) {
                result.append(try ListeningSocket(listening: try Socket.listen(on: candidate)))
            } catch {
                // IPv6 may be off; a port that another program has is a fault, as ever.
                guard error.code != EADDRINUSE else {
                    for socket in result { Socket.close(socket.fd) }
                    throw fault(name, access, error)
                }
            }
        }
        return result
    }

    /// A port in use is tried again for a while, with one line: a tele that was killed holds its port for a moment.
    /// Throws `interrupted` when the process was told to stop meanwhile.
    /// `candidates`: the addresses of the name; nil: it is looked up.
    init(
        _ name: HostPort, _ candidates: [Address]? = nil, access: SocketAccess = SocketAccess(), _ relay: RelayProcess,
        patience: Interval = Policy.bindPatience
    ) throws(StartFault) {
        let candidates = if let candidates { candidates } else { try ListeningSocket.addresses(of: name) }
        let start = Clock.now()
        var wasTold = false
        while true {
            var last = SystemError(EADDRNOTAVAIL)
            for candidate in candidates {
                do throws(SystemError) {
                    let fd = try Socket.listen(on: candidate, access: access)
                    try self.init(listening: fd)
                    linkName = name.host.contains("%") ? name : nil
                    return
                } catch {
                    last = error
                }
            }
            // An address that comes with a network that is not up yet, or a VPN.
            if last.code == EADDRNOTAVAIL {
                for candidate in candidates {
                    do throws(SystemError) {
                        try self.init(listening: try Socket.listen(on: candidate, beforehand: true))
                        linkName = name.host.contains("%") ? name : nil
                        relay.events.note(.addressNotThere(name))
                        return
                    } catch {
                        last = error
                    }
                }
            }
            guard last.code == EADDRINUSE, Clock.now() < start + patience.nanoseconds else {
                throw ListeningSocket.fault(name, access, last)
            }
            if !wasTold { relay.events.note(.addressInUse(name)) }
            wasTold = true
            if let number = relay.watches.signals?.take(), number == SIGTERM || number == SIGINT { throw ListeningSocket.interrupted }
            Clock.sleep(nanoseconds: Policy.retryDelay.nanoseconds)
        }
    }

    /// The same address on the link that has the name now. Nil: it is the same link still, or there is none.
    func renewed() -> ListeningSocket? {
        guard let linkName, case .success(let found) = Resolver.lookUp(linkName, passive: true), !found.contains(address) else { return nil }
        for candidate in found {
            guard let fd = try? Socket.listen(on: candidate, beforehand: true), var fresh = try? ListeningSocket(listening: fd) else { continue }
            fresh.linkName = linkName
            return fresh
        }
        return nil
    }

    private init(listening fd: Int32) throws(SystemError) {
        guard let address = Socket.localAddress(fd) else { throw SystemError(EADDRNOTAVAIL) }
        self.fd = fd
        self.address = address
        isAdopted = false
    }

    /// One that whoever started the process has opened.
    init(adopted fd: Int32) throws(StartFault) {
        Socket.adopt(fd)
        guard let address = Socket.localAddress(fd) else {
            throw StartFault(
                .configuration, "descriptor \(fd) from the service manager is no listening socket",
                hint: "the unit's ListenStream= makes one")
        }
        self.fd = fd
        self.address = address
        isAdopted = true
    }

    /// An inherited one (`Inheritance`). `link`: as `linkName`, or empty. Nil: not a listening socket.
    init?(inherited fd: Int32, isAdopted: Bool, link: String) {
        guard let address = Socket.localAddress(fd) else { return nil }
        (self.fd, self.address, self.isAdopted) = (fd, address, isAdopted)
        linkName = link.isEmpty ? nil : try? HostPort(parsing: link)
    }

    /// The process was told to stop before it began.
    static let interrupted = StartFault(.other, "told to stop", hint: "")

    private static func addresses(of name: HostPort) throws(StartFault) -> [Address] {
        try addresses(name, Resolver.lookUp(name, passive: true))
    }

    private static func addresses(_ name: HostPort, _ answer: Result<[Address], Resolver.LookupFailure>) throws(StartFault) -> [Address] {
        switch answer {
        case .success(let found):
            // The IPv6 wildcard takes IPv4 as well; where IPv6 is off, the next address serves.
            return name.host.isEmpty ? found.sorted { $0.family > $1.family } : found
        case .failure(let failure):
            throw StartFault(.unavailable, "cannot listen on \(name) (\(failure))", hint: "use an address of this machine")
        }
    }

    private static func fault(_ name: HostPort, _ access: SocketAccess, _ error: SystemError) -> StartFault {
        let hint =
            switch error.code {
            case ESRCH: "\(access.group ?? "") is not a group on this host"
            case EPERM where access.group != nil: "this user is not a member of the group \(access.group ?? "")"
            case EADDRINUSE: "another program listens there; choose another port, or leave the address out for a free one"
            case EACCES where name.path != nil: "may this user make files in that folder?"
            case ENOENT: "is the folder there?"
            case EACCES: "ports below 1024 need privileges; choose a higher one"
            case EADDRNOTAVAIL: "use an address of this machine, or :\(name.port) for all of them"
            default: "check the address"
            }
        return StartFault(.unavailable, "cannot listen on \(name) (\(error))", hint: hint)
    }
}
