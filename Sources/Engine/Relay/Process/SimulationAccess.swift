import CSlab
import Logging
import Loop
import Tunnel

/// What a simulation of whole processes does to them and asks of them (Tests/Simulation). Nothing else does.
extension RelayProcess {
    /// Another program takes over, as soon as nothing is under way.
    package func handOver() { if stopping.isRunning { handover.settle() } }

    /// It does not.
    package func keepProgram() { handover.giveUp("the simulation wants it so") }

    /// Whether something outlives it, and what: the mapping in which its records lie.
    package var keptMemory: UnsafeRawBufferPointer? {
        guard ledger != nil else { return nil }
        var count = 0
        let start = arena_mapping(arena, &count)
        return UnsafeRawBufferPointer(start: start, count: count)
    }

    /// It is dead from here on: nothing that it does is kept.
    package func freeze() {
        ledger?.isDead = true
        pipes.log?.isDead = true
    }

    /// It died in a commit (`records_die_after`), or was told so.
    package var isFrozen: Bool { ledger?.isDead ?? false }

    /// `body` is told of each session that is worked on, by the high word of its identity; 0: of none.
    package func watchAttention(_ body: @escaping (UInt64) -> Void) { ledger?.watchAttention = body }

    /// The high words of the identities of sessions that have streams.
    package var busySessions: [UInt64] { sessions.all.filter { $0.endpoint.streamCount > 0 }.map(\.identity.high) }

    /// Bytes that went through pipes into carriers, and out of carriers.
    package var splicedByteCounts: [UInt64] { [sendSplice.byteCount, receiveSplice.byteCount] }

    /// Bytes of kept memory that hold records, queues and the journal.
    package var keptByteCount: Int { ledger == nil ? 0 : kept_used(arena) }

    /// Several loops: `body` is called whenever another loop has told this one something.
    package func watchMail(_ body: @escaping @Sendable () -> Void) { member?.mail.open(wake: body) }

    /// The loop of this number, besides this one, which leads. `configuration`: the whole process's.
    package func makeFurther(_ number: Int, _ configuration: Configuration, _ logger: Logger, state: UnsafeRawBufferPointer?) throws -> RelayProcess {
        try RelayProcess(
            furtherOf: member!.group, number, configuration.part(number), logger, places: listeners.mappingsByPlace, state: state)
    }

    /// A further loop: its state has been saved.
    package func reportSettled() { member?.report(settled: .success(Successor.Legacy(descriptors: []))) }

    /// A further loop that has settled hears whether it goes on.
    package func hearWhileSettled() { member?.handleMessages() }

    /// A further loop has ended.
    package func leave(_ ending: Ending) { member?.leave(ending) }

    /// Nothing is under way: the state can be saved.
    package var isSettled: Bool { handover.isSettled }

    /// Lets sessions and carriers go of each other, for a simulation that kills many processes: nothing works afterwards.
    package func dissolve() {
        for session in sessions.all { (session.carrier, session.standby, session.pinning) = (nil, nil, []) }
        for carrier in carriers.all { (carrier.session, carrier.uplink, carrier.subflows, carrier.share) = (nil, nil, nil, nil) }
        ledger?.dissolve()
    }

    /// What an idle process holds and should not, as a sentence. Nil: nothing.
    package var leftover: String? {
        if locals.count > 0 { return "\(locals.count) local sockets are open" }
        if let session = sessions.all.first(where: { $0.endpoint.streamCount > 0 || $0.endpoint.retainedByteCount > 0 || $0.userCount > 0 }) {
            return
                "a session has \(session.endpoint.streamCount) streams, \(session.userCount) local sockets, \(session.endpoint.retainedByteCount) bytes retained"
        }
        if budget.held != 0 { return "\(budget.held) bytes are counted as held" }
        if budget.waiting != 0 { return "\(budget.waiting) bytes are counted as waiting" }
        if budget.expected != 0 { return "\(budget.expected) bytes are counted as expected" }
        // What was given back since the last commit is not out of use yet.
        ledger?.commit()
        if let sentence = arena_check(arena) { return String(cString: sentence) }
        return nil
    }

    /// What counts against its limits, for the reader of a run that failed.
    package var accounts: String {
        "held \(budget.held), armed \(budget.armed), expected \(budget.expected), waiting \(budget.waiting) of \(budget.total), "
            + "arena \(arena_used(arena)); \(locals.writer.hasWork ? "some" : "no") sockets and \(sessions.hasWork ? "some" : "no") sessions to flush, "
            + "postponed \(sessions.hasPostponed), unfinished \(carriers.reader.hasUnfinished), timer in \(Int64(timers.nextDeadline ?? 0) - Int64(now)) ns; sessions: "
            + sessions.all.map { session in
                "\(session.endpoint.streamCount) streams, sent \(session.endpoint.sent), acknowledged \(session.endpoint.acknowledged), "
                    + "\(session.endpoint.isAttached ? "attached" : "detached")\(session.endpoint.isSuspected ? ", suspected" : "")"
            }.joined(separator: "; ")
    }

    /// Bytes that local sockets brought beyond what the budget has; one receive of each may be on its way when it fills up.
    package var overdraft: Int { max(0, budget.held + budget.expected - budget.total) }

    /// Bytes in blocks of the arena that something refers to.
    package var usedByteCount: Int { arena_used(arena) }
    package var sessionCount: Int { sessions.count }
    /// Subflows that carriers have had.
    package var subflowTotal: Int { Int(carriers.subflowTotal) }
}
