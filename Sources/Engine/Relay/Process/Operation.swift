import Loop

/// What a completion or a timer is about: the `kind` of its token. Each means one thing.
enum Operation: UInt8 {
    // Completions.
    case accept = 1
    case originConnect
    case userReceive, userReceivePooled, userReadable, userSend, userWritable, userWatch
    case carrierConnect, carrierReceive, carrierReceivePooled, carrierReadable, carrierSend, carrierWritable
    case signals, networkEvents, wakeEvents, fileEvents
    case adminReceive, adminSend
    case requestReadable, requestSend
    /// The check of an upgrade has exited.
    case successorChecked
    // Timers of one listener, session, carrier or user.
    case acceptPause
    /// Listeners look again for connections, after the death of a process.
    case acceptAnew
    case sessionTimeout
    /// A handshake that takes too long; last words that do.
    case carrierDeadline
    /// A ring that had no room is asked again.
    case carrierRetry
    /// The kernel holds enough of a carrier; later there is room.
    case carrierRoom
    case originDeadline, originAttempt, flushDeadline
    /// An admin connection takes too long.
    case adminDeadline
    /// A user takes too long to say where it wants to go.
    case requestDeadline
    /// The ring had no room for requests of users.
    case requestsRetry
    /// An origin's name may be looked up again.
    case originQuestion
    // Timers of the process.
    case dial, standby, serverChoice, carrierCount, registry, grants, stopping, usersRetry, readersRetry, coolDown, carriersCoolDown
    /// The ring had no room to wait for signals, or for network events.
    case watchesRetry
    /// The network changed several times in a row.
    case networkSettled
    /// Certificate files have changed, and have been stable for a moment.
    case filesSettled
    /// The certificates' age is checked once a day.
    case certificateAge
    /// A sign of life for the service manager.
    case watchdog
    /// The server has had no session for -idle-exit.
    case idleExit
    /// Not all loops have said in time what they do.
    case reportsLate
    /// An upgrade's check, or its settling, takes too long.
    case successorLate
    // Look-ups of names.
    case serverLookup, originLookup
    /// An address that a reloaded configuration listens on.
    case listenerLookup

    func token(_ index: UInt32 = 0, _ generation: UInt32 = 0) -> Token {
        Token(kind: rawValue, index: index, generation: generation)
    }
}
