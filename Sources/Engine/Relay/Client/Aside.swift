import Loop
import Wire

/// Makes connections to the server beside those of the dialer, for a session that has a carrier: authenticated by a HELLO without an attempt.
protocol Aside: AnyObject {
    /// The connect has ended.
    func handleConnected(_ carrier: Carrier, _ error: SystemError?)
    /// TCP, and TLS if there is any, are complete: HELLO follows.
    func ask(_ carrier: Carrier)
    /// `proven`: the bytes that the proof covers.
    func handleWelcome(_ welcome: Welcome, _ proven: UnsafeRawBufferPointer, _ carrier: Carrier)
    func handleRefused(_ carrier: Carrier)
    /// It ended before its WELCOME.
    func handleFailed(_ carrier: Carrier)
}
