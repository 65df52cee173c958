import Loop

/// What a completion or a timer is about: the `kind` of its token.
enum Operation: UInt8 {
    case accept = 1
    case userConnect, userReceive, userReceivePooled, userSend, userWatch
    case carrierConnect, carrierReceive, carrierSend
    case signals, networkEvents
    // Timers.
    case sessionTimeout, sessionHold, carrierDeadline, originDeadline, acceptPause, probe, drainEnd, sweep

    func token(_ index: UInt32 = 0, _ generation: UInt32 = 0) -> Token {
        Token(kind: rawValue, index: index, generation: generation)
    }
}
