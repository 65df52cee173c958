import Loop

/// A name that is dialled, with the addresses that it had when it was last asked for. Asking happens off the loop.
final class ServerName {
    enum News { case same, changed, failed(String) }

    let name: HostPort
    private(set) var addresses: [Address]
    private(set) var isLookingUp = false
    private var askedAt: UInt64?

    /// `addresses`: as known already.
    init(_ name: HostPort, addresses: [Address] = []) {
        self.name = name
        self.addresses = addresses
    }

    /// A number needs no looking up once it has been.
    private var isNumeric: Bool {
        name.path != nil || name.host.utf8.allSatisfy { (0x30...0x39).contains($0) || $0 == 0x2e } || name.host.contains(":")
    }

    /// Asks again unless that has just been done, or can bring nothing new. The answer comes with `token`.
    func lookUpIfUseful(_ hub: Hub, _ token: Token) {
        guard !isLookingUp, addresses.isEmpty || !isNumeric else { return }
        if let askedAt, hub.now - askedAt < Policy.lookupInterval.nanoseconds, !addresses.isEmpty { return }
        if let askedAt, hub.now - askedAt < Policy.lookupPause.nanoseconds { return }
        askedAt = hub.now
        isLookingUp = hub.resolver.look(up: name, token: token.rawValue)
    }

    func take(_ answer: Resolver.Answer) -> News {
        isLookingUp = false
        switch answer.result {
        case .failure(let failure):
            return .failed(failure.description)
        case .success(let found):
            guard found != addresses else { return .same }
            addresses = found
            return .changed
        }
    }
}
