import Time
import Tunnel

/// The addresses of one destination, tried as RFC 8305 §5 says: the next a quarter of a second after the last, or at once when
/// that has failed; all of them may be under way at a time. When all have failed or are silent the name is looked up again, and
/// what is new is tried too. Pure: told what happened, asked what to do.
public struct AddressRace<Address: Equatable> {
    public enum Step: Equatable {
        /// Start a connect. `attemptFailed` may follow.
        case connect(Address)
        /// Ask the name's addresses. `handleAddresses` or `handleNoAnswer` follows.
        case lookUp
        /// Nothing to do before.
        case wait(until: Instant)
        /// Every address has failed, and the name has no other.
        case failed
    }

    /// Between the starts of two attempts (RFC 8305 §8: Connection Attempt Delay).
    public static var attemptDelay: Interval { .milliseconds(250) }
    /// While attempts are silent, a name is looked up again after this.
    public static var silence: Interval { .seconds(1) }
    /// When all have failed, the answer for a name that had an address before is awaited this long.
    public static var answerPatience: Interval { .seconds(2) }
    /// Attempts under way at a time.
    public static var attemptsMaximum: Int { 4 }

    private enum Name: Equatable {
        /// It is a number: it has no other address.
        case fixed
        case lookedUp(at: Instant)
        case asking(since: Instant)
        case unasked
    }

    /// All addresses so far; those before `tried` have had their turn, unless they are to be tried again.
    private var known: [Address]
    private var tried = 0
    private var again: [Address] = []
    private var name: Name
    private var underWay = 0
    private var nextAt = Instant(nanoseconds: 0)

    /// `addresses`: those of the name as known, the best first. `isFixed`: it is a number, or a path, and never has others.
    public init(_ addresses: [Address], isFixed: Bool) {
        known = addresses
        name = isFixed ? .fixed : .unasked
    }

    public mutating func next(now: Instant) -> Step {
        if tried < known.count || !again.isEmpty, underWay < Self.attemptsMaximum {
            guard now >= nextAt else { return .wait(until: nextAt) }
            underWay += 1
            nextAt = now + Self.attemptDelay
            if let address = again.popLast() { return .connect(address) }
            tried += 1
            return .connect(known[tried - 1])
        }
        switch name {
        case .fixed:
            return underWay > 0 ? .wait(until: .never) : .failed
        case .unasked:
            if underWay > 0, now < nextAt { return .wait(until: nextAt) }
            name = .asking(since: now)
            return .lookUp
        case .asking(let since):
            guard underWay == 0, !known.isEmpty else { return .wait(until: .never) }
            return now < since + Self.answerPatience ? .wait(until: since + Self.answerPatience) : .failed
        case .lookedUp(let at):
            guard underWay > 0 else { return .failed }
            guard now >= at + Self.silence else { return .wait(until: at + Self.silence) }
            name = .asking(since: now)
            return .lookUp
        }
    }

    /// An attempt ended, and not with a connection. The next one starts at once.
    public mutating func attemptFailed(now: Instant) {
        precondition(underWay > 0, "an attempt failed that was not made")
        underWay -= 1
        nextAt = now
    }

    /// The connect could not even be started for want of room: it is tried again later.
    public mutating func attemptRefused(_ address: Address) {
        precondition(underWay > 0, "an attempt was refused that was not made")
        underWay -= 1
        again.append(address)
        nextAt = Instant(nanoseconds: 0)
    }

    /// What the name has now.
    public mutating func handleAddresses(_ addresses: [Address], now: Instant) {
        let fresh = addresses.filter { !known.contains($0) }
        if !fresh.isEmpty { nextAt = min(nextAt, now) }
        known += fresh
        handleNoAnswer(now: now)
    }

    /// The destination has another name from now on: what that one has is tried too.
    public mutating func handleRenamed() {
        if name != .fixed { name = .unasked }
    }

    /// The name could not be looked up: what is known must do.
    public mutating func handleNoAnswer(now: Instant) {
        if name != .fixed { name = .lookedUp(at: now) }
    }
}
