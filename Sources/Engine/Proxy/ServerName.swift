import Loop

/// A name that is dialled, with the addresses that it had when it was last asked for. Asking happens off the loop.
final class ServerName {
    enum News { case same, changed, failed(String) }

    let name: HostPort
    private(set) var addresses: [Address]
    private(set) var isLookingUp = false
    private var askedAt: UInt64?
    private var preferred: Address?

    /// `addresses`: as known already.
    init(_ name: HostPort, addresses: [Address] = []) {
        self.name = name
        self.addresses = addresses
    }

    /// A number needs no looking up once it has been.
    var isNumeric: Bool {
        name.path != nil || name.host.utf8.allSatisfy { (0x30...0x39).contains($0) || $0 == 0x2e } || name.host.contains(":")
    }

    /// It may be asked again from here on.
    var nextQuestion: UInt64 { askedAt.map { $0 + Policy.lookupLeast.nanoseconds } ?? 0 }

    /// Asks again, unless an answer is awaited.
    func lookUp(_ hub: Hub, _ token: Token) {
        guard !isLookingUp else { return }
        askedAt = hub.now
        isLookingUp = hub.resolver.look(up: name, token: token.rawValue)
    }

    /// This address is there: it comes first from now on, as long as the name has it.
    func prefer(_ address: Address) {
        preferred = address
        addresses = inOrder(addresses)
    }

    private func inOrder(_ found: [Address]) -> [Address] {
        guard let preferred, found.first != preferred, found.contains(preferred) else { return found }
        return [preferred] + found.filter { $0 != preferred }
    }

    /// Asks again unless that has just been done, or can bring nothing new. The answer comes with `token`.
    func lookUpIfUseful(_ hub: Hub, _ token: Token) {
        guard !isLookingUp, addresses.isEmpty || !isNumeric else { return }
        if let askedAt, hub.now - askedAt < Policy.lookupInterval.nanoseconds, !addresses.isEmpty { return }
        if let askedAt, hub.now - askedAt < Policy.lookupPause.nanoseconds { return }
        lookUp(hub, token)
    }

    func take(_ answer: Resolver.Answer) -> News {
        isLookingUp = false
        switch answer.result {
        case .failure(let failure):
            return .failed(failure.description)
        case .success(let found):
            let found = inOrder(found)
            guard found != addresses else { return .same }
            addresses = found
            return .changed
        }
    }
}
