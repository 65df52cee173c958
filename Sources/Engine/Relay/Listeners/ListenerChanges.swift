import Loop
import Time

/// Listeners of users, as another configuration wants them.
extension Listeners {
    /// Those that did not change are not touched. `found`: the addresses of those whose address is a name. Returns what could not be done.
    func apply(_ mappings: [Mapping], _ found: [HostPort: Resolver.Answer]) -> [StartFault] {
        let wanted = Dictionary(mappings.map { ($0.name, $0) }) { first, _ in first }
        let byAddress = Dictionary(mappings.map { ($0.address, $0) }) { first, _ in first }
        var changes: [String: Mapping] = [:]
        var removed: Set<String> = []
        for old in self.mappings where wanted[old.name] != old {
            // Another name or way at the same address: the socket stays, and with it whoever waits there.
            if let new = byAddress[old.address], new.access == old.access {
                changes[old.name] = new
                relay.events.note(.mappingChanged(new))
            } else {
                removed.insert(old.name)
                relay.events.note(.mappingRemoved(old))
            }
        }
        close(removed)
        replace(changes)
        let present = Dictionary(self.mappings.map { ($0.name, $0) }) { first, _ in first }
        return mappings.filter { present[$0.name] != $0 }.compactMap { mapping in
            do throws(StartFault) {
                for socket in try ListeningSocket.all(mapping.address, access: mapping.access, relay, patience: .zero, found: found[mapping.address]) {
                    add(socket, mapping)
                }
                return nil
            } catch {
                return error
            }
        }
    }

    /// Users of the mapping come by this socket from now on.
    func add(_ socket: ListeningSocket, _ mapping: Mapping) {
        add(socket, .users(mapping))
        relay.events.note(
            .listensForUsers(
                socket.address, mapping: mapping.name, server: relay.configuration.role == .client ? relay.configuration.output : nil,
                driver: relay.loop.driverName))
    }
}
