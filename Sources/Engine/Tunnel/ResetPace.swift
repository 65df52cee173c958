import Wire

/// How often streams may be reset by the side that opened them (docs/protocol.md §6.15). Such a RESET costs its sender nothing and
/// the receiver a connection, so the receiver judges it; and the sender waits rather than be judged.
///
/// The sender keeps both limits: at most `inFlightMaximum` RESETs that are not acknowledged, and a bucket that fills more slowly
/// than the receiver's. So whatever an outage holds back and then delivers at once, at most `inFlightMaximum + burst` RESETs
/// reach the receiver beyond its rate: no honest load is a fault.
enum ResetPace {
    /// The receiver takes this many at once, and one for each stream that may be open; then this many a second.
    static let receivedBurst = 1024
    static let receivedPerSecond = 10_000
    /// The sender's limits.
    static let burst = 512
    static let perSecond = 8_000
    static let inFlightMaximum = 512
}
