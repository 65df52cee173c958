import Time
import Tunnel
import Wire

/// Who may say that a session is gone (docs/protocol.md 4.22, 4.24). Only the server that made it knows: the one at the address that last
/// carried it, or else all that its name leads to. While a carrier is there, it may belong to that server still, whoever answers
/// elsewhere. A session with nothing to lose needs no proof. Pure: told what happened, says what to believe.
public struct SessionHome<Address: Hashable> {
    /// What becomes of the session when a server says that it does not know it.
    public enum Verdict: Equatable, Sendable {
        /// It is gone: its users are reset, and a new one begins.
        case gone
        /// Another server of the name answered: this address is not asked again.
        case stranger
        /// Its own server's address answered so, while a carrier may still live, or another server answers there now: asked again.
        case notYet
    }

    /// What the session has of a carrier.
    public enum Carrier: Equatable, Sendable { case none, works, suspected }

    /// A carrier that was silent for this long, while its server's address does not know the session, died with that server.
    public static var silence: Interval { .seconds(3) }
    /// Behind one address may be several servers, which a load balancer chooses. When only others have answered there for this long, its own
    /// is not there any more.
    public static var strangersPatience: Interval { .seconds(30) }
    static var addressesMaximum: Int { 16 }

    /// The address that last carried the session, and all that have, of late.
    public private(set) var address: Address?
    public private(set) var addresses: Set<Address> = []
    /// The server that made it. Nil: it is older than this.
    public private(set) var server: ServerIdentity?
    /// Addresses whose server does not know the session.
    private var strangers: Set<Address> = []
    /// When that was first said while its carrier was silent.
    private var unknownSince: Instant?
    /// Since when other servers have answered for its own.
    private var strangersSince: Instant?

    /// `address`, `server`: of a restored session.
    public init(_ address: Address? = nil, server: ServerIdentity? = nil) {
        (self.address, self.server) = (address, server)
        if let address { addresses = [address] }
    }

    /// The session has a carrier from this address. `server`: as it said.
    public mutating func handleCarried(by address: Address, server: ServerIdentity? = nil) {
        self.address = address
        if addresses.count >= Self.addressesMaximum { addresses = [] }
        addresses.insert(address)
        self.server = server
        unknownSince = nil
        strangersSince = nil
    }

    /// These lead to the same server.
    public mutating func handleAlias(_ others: Set<Address>) {
        addresses.formUnion(others)
        strangers.subtract(others)
    }

    /// A suspicion was wrong.
    public mutating func handleRecovered() {
        unknownSince = nil
        strangersSince = nil
    }

    /// With nothing left to wait for they are asked once more.
    public mutating func handleCarrierLost() {
        strangers = []
        strangersSince = nil
    }

    /// Whether the address belongs to another server.
    public func isStranger(_ address: Address) -> Bool { strangers.contains(address) && address != self.address }

    /// The server at `peer` does not know the session. `server`: who it says it is. `addresses`: all that the name has. `isUnused`: no server
    /// ever heard of one of its streams.
    public mutating func handleUnknown(
        from peer: Address, server: ServerIdentity? = nil, carrier: Carrier, addresses: [Address], isUnused: @autoclosure () -> Bool, now: Instant
    ) -> Verdict {
        strangers.insert(peer)
        #if CANARIES
        if Canary.selected == .believesStrangers { return .gone }
        #endif
        let other: Verdict = peer == address ? .notYet : .stranger
        if carrier == .none, isUnused() { return .gone }
        guard peer == address || addresses.allSatisfy(strangers.contains) else {
            if carrier == .works { unknownSince = nil }
            return other
        }
        // The same place means that its server was started anew.
        if let server, let own = self.server, server.place != own.place {
            guard carrier != .works else { return other }
            let since = strangersSince ?? now
            strangersSince = since
            guard now.since(since) >= Self.strangersPatience else { return other }
        }
        switch carrier {
        case .none: return .gone
        case .works:
            unknownSince = nil
            return other
        case .suspected:
            let since = unknownSince ?? now
            unknownSince = since
            return now.since(since) >= Self.silence ? .gone : other
        }
    }
}
