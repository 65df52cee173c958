import Loop
import Time

/// A name that is dialled, with the addresses that it had when it was last asked for. Asking happens off the loop.
final class ResolvedName {
    enum News { case same, changed, failed(String) }

    let name: HostPort
    private(set) var addresses: [Address]
    /// Questions that are not answered; a name server that does not answer bars none.
    private var underWay = 0
    /// Questions so far, and the last one whose answer was taken: an older answer that comes later is old.
    private var asked: UInt32 = 0
    private var taken: UInt32 = 0
    private var askedAt: UInt64?
    private var preferred: Address?

    /// A peer has chosen it.
    private let isChosen: Bool

    /// `addresses`: as known already.
    init(_ name: HostPort, addresses: [Address] = [], isChosen: Bool = false) {
        self.name = name
        self.isChosen = isChosen
        self.addresses = addresses
        let number = Resolver.number(name)
        isNumeric = number != nil
        if let number { self.addresses = [number] }
    }

    /// A number needs no looking up once it has been; the name of a link behind it does: the link may be made anew.
    let isNumeric: Bool

    /// Addresses that it had for another program in this process.
    func know(_ known: [Address]) { if addresses.isEmpty { addresses = known } }

    var isLookingUp: Bool { underWay > 0 }

    /// It may be asked again from here on.
    var nextQuestion: UInt64 { askedAt.map { $0 + Policy.lookupLeast.nanoseconds } ?? 0 }

    /// Asks again, unless too many answers are awaited. The answer comes with the operation and the index, and this question's number.
    func lookUp(_ relay: RelayProcess, _ operation: Operation, _ index: UInt32 = 0) {
        guard underWay < Policy.lookupsMaximum else { return }
        askedAt = relay.now
        asked = (asked + 1) & 0xff_ffff
        if relay.resolver.look(up: name, token: operation.token(index, asked).rawValue, isChosen: isChosen) { underWay += 1 }
    }

    /// The network is another one: what is asked now may be answered otherwise than what was asked a moment ago.
    func forgetQuestion() { askedAt = nil }

    /// This address is there: it comes first from now on, as long as the name has it.
    func prefer(_ address: Address) {
        guard preferred != address || addresses.first != address else { return }
        preferred = address
        addresses = inOrder(addresses)
    }

    private func inOrder(_ found: [Address]) -> [Address] {
        guard let preferred, found.first != preferred, found.contains(preferred) else { return found }
        return [preferred] + found.filter { $0 != preferred }
    }

    /// Asks again unless that has just been done, or can bring nothing new. `isUrgent`: nothing works, so it may be the address.
    func lookUpIfUseful(_ relay: RelayProcess, isUrgent: Bool = false, _ operation: Operation, _ index: UInt32 = 0) {
        guard addresses.isEmpty || !isNumeric else { return }
        let pause = addresses.isEmpty || isUrgent ? Policy.lookupPause : Policy.lookupInterval
        if let askedAt, relay.age(of: askedAt) < pause.nanoseconds { return }
        lookUp(relay, operation, index)
    }

    func take(_ answer: Resolver.Answer) -> News {
        underWay -= 1
        let number = Token(rawValue: answer.token).generation
        guard (number &- taken) & 0xff_ffff < 0x80_0000 else { return .same }
        taken = number
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
