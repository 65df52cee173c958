import Time
import Tunnel

/// Who may say that a session is gone (docs/protocol.md 4.22). Only the server that made it knows: the one at the address that last
/// carried it, or else all that its name leads to. While a carrier is there, it may belong to that server still, whoever answers
/// elsewhere. A session with nothing to lose needs no proof. Pure: told what happened, says what to believe.
public struct SessionHome<Address: Hashable> {
    /// What becomes of the session when a server says that it does not know it.
    public enum Verdict: Equatable, Sendable {
        /// It is gone: its users are reset, and a new one begins.
        case gone
        /// Another server of the name answered: this address is not asked again.
        case stranger
        /// Its own server's address answered so, while a carrier may still live: asked again.
        case notYet
    }

    /// What the session has of a carrier.
    public enum Carrier: Equatable, Sendable { case none, works, suspected }

    /// A carrier that was silent for this long, while its server's address does not know the session, died with that server.
    public static var silence: Interval { .seconds(3) }

    /// The address that last carried the session.
    public private(set) var address: Address?
    /// Addresses whose server does not know the session.
    private var strangers: Set<Address> = []
    /// When that was first said while its carrier was silent.
    private var unknownSince: Instant?

    /// `address`: of a restored session.
    public init(_ address: Address? = nil) { self.address = address }

    /// The session has a carrier from this address.
    public mutating func handleCarried(by address: Address) {
        self.address = address
        unknownSince = nil
    }

    /// A suspicion was wrong.
    public mutating func handleRecovered() { unknownSince = nil }

    /// With nothing left to wait for they are asked once more.
    public mutating func handleCarrierLost() { strangers = [] }

    /// Whether the address belongs to another server.
    public func isStranger(_ address: Address) -> Bool { strangers.contains(address) && address != self.address }

    /// The server at `peer` does not know the session. `addresses`: all that the name has. `isUnused`: no server ever heard of one of its
    /// streams.
    public mutating func handleUnknown(
        from peer: Address, carrier: Carrier, addresses: [Address], isUnused: @autoclosure () -> Bool,
        now: Instant
    ) -> Verdict {
        strangers.insert(peer)
        #if CANARIES
        if Canary.selected == .believesStrangers { return .gone }
        #endif
        let isSaidByAll = peer == address || addresses.allSatisfy(strangers.contains)
        let other: Verdict = peer == address ? .notYet : .stranger
        switch carrier {
        case .none:
            return isSaidByAll || isUnused() ? .gone : other
        case .works:
            unknownSince = nil
            return other
        case .suspected:
            let since = unknownSince ?? now
            unknownSince = since
            return isSaidByAll && now.since(since) >= Self.silence ? .gone : other
        }
    }
}
