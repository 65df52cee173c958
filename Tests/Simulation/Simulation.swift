import CSlab
import Time
import Tunnel
import Wire

/// Runs plans and judges them. Memory is reused from run to run; one simulation belongs to one thread.
public final class Simulation {
    /// What a run did.
    public struct Report: Equatable, Sendable {
        public var seed: UInt64 = 0
        /// Nil: everything held.
        public var failure: String?
        public var steps = 0
        /// A hash over all that happened: two runs of a seed agree in it.
        public var trace: UInt64 = 0
        public var virtualMilliseconds = 0
        public var carriers = 0
        public var resumes = 0
        public var kills = 0
        public var restarts = 0
        public var doubts = 0
        public var suspicions = 0
        /// Frames that went past memory, and payload that was passed on.
        public var spliced = 0, passed = 0
        /// Streams that went on in another session, because nobody had heard of them.
        public var carried = 0
        public var delivered = 0
        /// Bytes that arrived on each of the first carriers, from the client and from the server.
        public var arrived: [[Int]] = []
        /// Types of the sequenced frames that took their place.
        public var sequenced: Set<UInt8> = []
        /// Of a lying peer: how it was caught.
        public var caught: String?
    }

    static let stepsMaximum = 2_000_000
    /// After the heal, everything must have ended within this much virtual time.
    static let settleMaximum = milliseconds(120_000)

    private let arenas: [OpaquePointer]

    public init() {
        arenas = Side.allCases.map { _ in
            var arena: OpaquePointer?
            guard arena_create(&arena, 4 << 30) == 0, let arena else { fatalError("no memory for an arena") }
            return arena
        }
    }

    deinit { for arena in arenas { arena_destroy(arena) } }

    public func run(_ plan: Plan) -> Report {
        let world = World(plan, arenas)
        world.runToEnd()
        var report = Report()
        report.seed = plan.seed
        report.failure = world.failure
        report.steps = world.steps
        report.trace = world.trace
        report.virtualMilliseconds = Int((world.time - world.startTime) / 1_000_000)
        report.carriers = world.outages
        report.resumes = world.resumes
        report.kills = world.kills
        report.restarts = world.restarts
        report.doubts = world.doubts
        report.suspicions = world.suspicions
        (report.spliced, report.passed) = (world.spliced, world.passed)
        report.carried = world.carried
        report.delivered = world.delivered
        report.arrived = stride(from: 0, to: min(world.ends.count, 8), by: 2).map { number in
            [world.ends[number].way.arrived, world.ends[number + 1].way.arrived]
        }
        report.sequenced = world.sequenced
        report.caught = world.caught?.rule.description
        if report.failure == nil, let sentence = leftovers() { report.failure = sentence }
        if report.failure != nil { world.abandonMemory() }
        return report
    }

    private func leftovers() -> String? {
        for (side, arena) in zip(Side.allCases, arenas) {
            if arena_used(arena) != 0 { return "the \(side)'s arena still holds \(arena_used(arena)) bytes" }
            if let sentence = arena_check(arena) { return String(cString: sentence) }
        }
        return nil
    }
}

extension World {
    func runToEnd() {
        plan.liar == nil ? runHonestly() : runWithLiar()
        trace = Chance.mixed(trace &+ UInt64(delivered) &+ UInt64(steps) << 32)
    }

    private func runHonestly() {
        guard proceed(until: { $0.isHealed && $0.isSettled }) else { return }
        judgeUsers()
        judgeSessions()
        guard failure == nil else { return }
        if plan.closes {
            // CLOSE is sent once; nobody hears it on a carrier that dies, or that a late HELLO of ours displaces.
            let session = client.session, peer = server.sessions[0], end = client.session.end!
            client.dialer.stop()
            runDialer()
            session.endpoint.close(.done, "all done")
            touch(session)
            guard proceed(until: { _ in
                end.wasKilled || !session.isOver && session.end !== end || session.isOver && (peer.isOver || peer.attempt > end.attempt)
            }) else { return }
        }
        putAway()
    }

    /// Steps until `isDone`. False: it never came, or something failed.
    private func proceed(until isDone: (World) -> Bool) -> Bool {
        pumpDirty()
        while failure == nil {
            if isDone(self) { return true }
            guard step() else {
                require(false, "nothing is left to happen, and \(unfinished)")
                break
            }
            require(steps < Simulation.stepsMaximum, "no end after \(steps) steps, and \(unfinished)")
            require(!isHealed || time < healedAt + Simulation.settleMaximum, "no end long after the heal, and \(unfinished)")
        }
        return false
    }

    /// Every user has ended, and both ends of the session have forgotten all.
    var isSettled: Bool {
        guard unopened == 0, openUsers == 0, client.session.endpoint.isAttached,
              client.session.endpoint.streamCount == 0, queue_count(&client.session.store) == 0 else { return false }
        guard server.sessions.count == 1, client.candidates.isEmpty,
              server.sessions[0].end?.number == client.session.end?.peer else { return false }
        for session in server.sessions {
            if session.identity != client.session.identity { return false }
            if session.endpoint.streamCount > 0 || queue_count(&session.store) > 0 { return false }
        }
        return true
    }

    private func judgeUsers() {
        for stream in 0..<plan.streamCount {
            let pair = [users[2 * stream], users[2 * stream + 1]]
            let isDisturbed = pair.contains { $0.resetCode != nil || $0.state == .lost || $0.state == .wasReset }
            require(isDisturbed || pair.allSatisfy { $0.state == .over },
                    "stream \(stream) ended as \(pair[0].state) and \(pair[1].state), and nobody reset it")
        }
    }

    private func judgeSessions() {
        for session in [client.session, server.sessions[0]] {
            require(session.held == 0 && session.endpoint.unconsumedByteCount == 0,
                    "bytes count against a session's credit that nobody holds")
        }
        require(queue_count(&client.session.store) == 0, "acknowledged bytes are still stored")
    }

    /// The end of both processes.
    func putAway() {
        for candidate in client.candidates.values { close(candidate, orderly: false) }
        for session in sessions where !session.isOver { endSession(session) }
        // The last sends come home; nothing else happens any more.
        while sessions.contains(where: { !$0.sending.isEmpty }), let event = calendar.next() {
            if event.kind == .complete { complete(ends[Int(event.subject)]) }
        }
    }

    /// After a failure nothing can be trusted, and the arenas must serve the next run.
    func abandonMemory() {
        for user in users.indices { queue_clear(&users[user].waiting, arenas[user & 1]) }
        for session in sessions { queue_clear(&session.store, arenas[session.side.rawValue]) }
    }

    private var unfinished: String {
        let open = users.indices.filter { users[$0].state == .open }
        let names = open.prefix(4).map { user in
            "stream \(stream(ofUser: user)) at \(side(ofUser: user)) (wrote \(users[user].written) of \(users[user].total), "
                + "read \(users[user].consumed) of \(users[user].arrived) of \(users[user ^ 1].written))"
        }
        let own = client.session.endpoint.retainedByteCount
        return "\(unopened) streams are unopened, \(open.count) users are open, \(own) bytes are retained at the client, "
            + "carrier \(client.session.end == nil ? "none" : "up"): \(names)"
    }
}
