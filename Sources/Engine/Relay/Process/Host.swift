import Loop
import State
import Tunnel

/// What every part of a process asks of its side of the tunnel, and a client and a server answer differently. What only one of them does
/// is asked of it: `RelayProcess.client`, `RelayProcess.server`.
protocol Host: AnyObject {
    // Listeners.
    /// Room for one more connection of this kind: a user of a client, or a carrier of a server.
    func mayAccept(_ purpose: Listeners.Purpose) -> Bool
    /// `mapping` and its `place`: of the listener.
    func handleAccepted(_ fd: Int32, _ mapping: Mapping?, _ place: UInt16)

    // Carriers.
    /// Its TLS handshake is complete, and holds.
    func handleSecured(_ carrier: Carrier, _ channel: SecureChannel)
    /// Bytes came on a carrier that owns no session yet.
    func readHandshake(_ carrier: Carrier)
    /// It ended before it owned a session.
    func handleFailed(_ carrier: Carrier, _ reason: String)
    /// The session's carrier ended by itself.
    func handleLost(_ session: Session, _ carrier: Carrier, _ reason: String)

    // Sessions and streams.
    /// The session is about to be discarded, its users still there.
    func handleSessionEnded(_ session: Session)
    func handleOpened(_ session: Session, _ slot: StreamSlot, target: UInt64)

    // The process.
    /// Before the first iteration.
    func start()
    func handleTimer(_ operation: Operation, _ token: Token)
    /// The credentials were read again.
    func handleReloaded()
    /// Why a new user would wait. Nil: it would not.
    var unreadiness: String? { get }
    /// Its current state: as a number, which is cheap to compare, and in a few words.
    var summary: Int { get }
    var summaryWords: String { get }
    /// No new streams from now on.
    func drain()
    /// Detaches all sessions; nothing is dialled before `resume`.
    func suspend()
    /// No connect is in flight.
    var isQuiet: Bool { get }
    func resume()

    // Upgrades.
    /// Saves or restores what this side knows of a session.
    func archive(_ session: Session, _ archive: inout StateArchive) throws(StateFault)
    /// Another one whenever `archive` would save something else.
    func stamp(of session: Session) -> UInt64
    /// A session has been restored as a whole.
    func restored(_ session: Session)
    /// The sessions are over.
    func sayGoodbye()
    /// How the process ends, as far as its own side knows.
    var ending: Ending { get }
}
