import Control
import Loop
import Tunnel
import Wire

/// Decisions that differ between a client and a server. `Client` and `Server` implement it.
protocol Host: AnyObject {
    /// Before the first iteration.
    func start()

    // Listeners.
    /// Room for one more connection.
    var mayAccept: Bool { get }
    /// `mapping` and its `place`: of the listener.
    func handleAccepted(_ fd: Int32, _ mapping: Mapping?, _ place: UInt16)
    /// The other side reset the user's stream.
    func handleStreamReset(_ index: UInt32, _ code: ResetCode)
    /// A user's socket is closed.
    func handleUserGone(_ index: UInt32, _ farewell: SocketLife.CloseMode)
    /// What became of `Configuration.stream`.
    var ending: Ending { get }
    /// The name of a user socket's mapping, for people.
    func mappingName(_ place: UInt16) -> String

    // Carriers.
    func handleConnected(_ carrier: Carrier, _ error: SystemError?)
    /// Bytes of the peer came before its TLS handshake is complete.
    func handleHeard(_ carrier: Carrier)
    /// Its TLS handshake is complete, and holds.
    func handleSecured(_ carrier: Carrier, _ channel: SecureChannel)
    /// A carrier cannot be accepted for want of a descriptor.
    func makeRoom()
    /// Bytes came on a carrier that owns no session yet.
    func readHandshake(_ carrier: Carrier)
    /// It ended before it owned a session.
    func handleFailed(_ carrier: Carrier, _ reason: String)
    /// The session's carrier ended by itself.
    func handleLost(_ session: Session, _ carrier: Carrier, _ reason: String)
    /// Its carrier is silent where it should answer; it is not suspected yet.
    func handleInDoubt(_ session: Session)
    func handleSuspected(_ session: Session)
    /// The answer came after all.
    func handleRecovered(_ session: Session)
    /// Frames came behind the greeting.
    func handleProven(_ session: Session)
    /// Users of the session take so much that it needs a larger receive budget.
    func handleShortage(_ session: Session)
    /// The session is about to be discarded, its users still there.
    func handleSessionEnded(_ session: Session)

    // Streams.
    func handleOpened(_ session: Session, _ slot: StreamSlot, target: UInt64)
    /// A connect to an origin ended.
    func handleOriginConnected(_ token: Token, _ error: SystemError?)
    /// The connection to the origin is no longer wanted.
    func handleConnectAbandoned(_ index: UInt32)
    /// Once an iteration, after everything that arrived has been read.
    func finishTurn()

    // The process.
    /// Why a new user would wait. Nil: it would not.
    var unreadiness: String? { get }
    /// Its current state: as a number, which is cheap to compare, and in a few words.
    var summary: Int { get }
    var summaryWords: String { get }
    func handleTimer(_ operation: Operation, _ token: Token)
    func handleLookup(_ answer: Resolver.Answer)
    func pathMayHaveChanged()
    /// Some link, address or route changed, whether or not it matters here.
    func networkChanged()
    /// A new carrier is wanted, though the old one may work. False: this side does not dial.
    func reconnect() -> Bool
    /// The credentials were read again.
    func handleReloaded()
    /// The mappings were read again; those that did not change are not touched. `found`: the addresses of those to listen on that are
    /// names. Returns what could not be done.
    func apply(_ mappings: [Mapping], _ found: [HostPort: Resolver.Answer]) -> [StartFault]
    /// No new streams from now on.
    func drain()
    /// The sessions are over.
    func sayGoodbye()
}
