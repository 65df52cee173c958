#if CANARIES
/// Deliberate defects, for the proof that the simulator sees them (Tests/Simulation/canaries). Nothing of them is in a
/// build without the flag.
public enum Canary: Int, CaseIterable, Sendable {
    /// Replayed payload is passed on again.
    case noDedupe = 1
    /// A DATA frame is acknowledged when its header has arrived.
    case earlyAcknowledgment
    /// FIN is forgotten once the session has changed its carrier.
    case lostFin
    /// The replay starts one byte late.
    case wrongReplay
    /// An older attempt may displace a newer one (in the registry).
    case olderAttempt
    /// Stored bytes go home when they are sent (in the session's store).
    case earlyRelease
    /// One byte more of an early replay is dropped.
    case earlySkip
    /// Control bytes stand where the cursor is.
    case controlInsideFrame
    /// The session's credit of a reset stream is never given back.
    case creditLeak
    /// RESET looks like FIN.
    case resetAsFin
    /// A credit frame is added to the limit, not taken as the limit.
    case relativeCredit
    /// Silence is never suspicious.
    case noSuspicion
    /// Any server's word ends a session.
    case believesStrangers
    /// A splice that brings nothing at an urgent mark is taken for the end of the stream.
    case urgentMarkIsEnd
    /// Every carrier receives into a slab of its own, also an idle one.
    case pinnedSlabs
    /// Streams are reset as fast as their users reset.
    case unpacedResets
    /// Streams are promised what the session has not got.
    case promisesBeyondLimit
    /// Local sockets are read beyond the budget.
    case readsBeyondBudget
    /// What the ring refuses is tried again in the same iteration.
    case retriesAtOnce
    /// A session's share of the memory stays as it was given.
    case fixedGrants
    /// A long stall, whatever its cause, makes the next silence look usual.
    case patienceFromStall
    /// A session is given up whose last bytes no server has acknowledged.
    case forgetsLastBytes
    /// A successor does not know that a frame was read in part.
    case forgetsHalfFrame
    /// A successor does not know which attempts it has accepted.
    case forgetsAttempts
    /// A client that has not got its WELCOME serves users of the server.
    case servesUnproven
    /// Streams whose bytes one server may have are opened on another one.
    case movesSpokenStreams

    /// Nobody is told that an answer is late.
    case neverLate

    /// A change is left out of a commit now and then.
    case leavesOutChanges
    /// A successor does not know what operations came to after the last commit.
    case forgetsEnded
    /// A successor takes an operation that is committed for one that is not.
    case repeatsEnded
    /// Of a call whose result nobody knows: that this side's SYN counts as a byte is forgotten, or that a FIN does.
    case countsNoSYN
    case countsNoFIN
    /// A session that crashes the process is never given up.
    case blamesNobody
    /// Chunks of a carrier are read in the order in which its subflows bring them.
    case readsChunksAsTheyCome
    /// A subflow may join whatever carrier the session has now.
    case joinsAnyCarrier
    /// Of a carrier that is passed to another loop only HELLO goes along.
    case forgetsEarlyBytes
    /// A carrier is judged by the loop that accepted it.
    case keepsCarriers
    /// A loop takes what others send for older than its own clock.
    case trustsItsClock
    /// A successor does not know what was moved through pipes since the last commit.
    case forgetsMoves
    /// A successor makes a move again that is committed.
    case repeatsMoves
    /// Bytes leave pipes before it is committed that they lie there.
    case movesAtOnce
    /// A pipe is filled anew of which the last commit says what lies in it.
    case reusesPipes
    /// Operations begin although what they tell is not committed.
    case commitsLate
    /// A successor is not told what a local socket took.
    case forgetsSends

    /// Set once, before anything runs.
    nonisolated(unsafe) public static var selected: Canary?
}
#endif
