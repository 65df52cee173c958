import Control
import CSlab
import Glibc
import Time
import Tunnel
import Wire

/// One run: two tele processes, their users and the network between them, on virtual time. Nothing in it knows the
/// real time, and all chance comes from the plan's seed.
final class World {
    var plan: Plan
    var chance: Chance
    var calendar = Calendar()
    /// Virtual nanoseconds.
    var time: UInt64
    /// What each side's clock is ahead.
    var clockOffset: [UInt64] = [0, 0]
    /// A process that is stopped or suspended does nothing until then.
    var frozenUntil: [UInt64] = [0, 0]

    var ends: [End] = []
    var sessions: [Session] = []
    var dirty: [Session] = []
    var users: [User]
    var client: Client! = nil
    var server: Server
    let arenas: [OpaquePointer]

    /// HELLOs that went out, for somebody to send again.
    var oldHellos: [Hello] = []
    var unopened: Int
    var openUsers = 0
    var isHealed = false
    var startTime: UInt64 = 0
    var healedAt: UInt64 = 0
    var failure: String?
    /// Lying peers: the rule by which one was caught.
    var caught: ProtocolFault?

    // Counts for the report.
    var steps = 0
    var trace: UInt64 = 0
    /// Types of the sequenced frames that took their place.
    var sequenced: Set<UInt8> = []
    var outages = 0, resumes = 0, kills = 0, restarts = 0, doubts = 0, suspicions = 0, carried = 0, spliced = 0, passed = 0
    var delivered = 0

    // Memory that lasts one call.
    let header = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.headerMaximum, alignment: 8)
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 8)
    var vectors = [iovec](repeating: iovec(), count: 32)

    init(_ plan: Plan, _ arenas: [OpaquePointer]) {
        self.plan = plan
        self.arenas = arenas
        chance = plan.chance
        // Far from zero, so that a clock that starts at zero is not taken for granted, and sometimes at zero.
        time = chance.oneIn(8) ? 0 : UInt64(chance.below(1 << 50))
        users = Array(repeating: User(), count: 2 * plan.streamCount)
        unopened = plan.streamCount
        server = Server(plan)
        client = Client(session: makeSession(.client), addressCount: plan.addressCount, now: now(.client))
        let start = time
        startTime = time
        for stream in 0..<plan.streamCount {
            calendar.add(.open, stream, at: start + UInt64(chance.below(Int(plan.opensWithin) + 1)))
        }
        if !plan.faults.isEmpty { calendar.add(.fault, 0, at: start + UInt64(chance.below(Int(plan.faultGap) + 1))) }
        calendar.add(.heal, 0, at: start + plan.healsAt)
        calendar.add(.expire, 0, at: start + milliseconds(100))
        runDialer()
        pumpDirty()
    }

    deinit {
        header.deallocate()
        scratch.deallocate()
    }

    func now(_ side: Side) -> Instant { Instant(nanoseconds: time + clockOffset[side.rawValue]) }

    func opener(of stream: Int) -> Side {
        plan.serverOpens && Chance.mixed(plan.seed &+ UInt64(stream)) & 3 == 0 ? .server : .client
    }

    // MARK: The run

    /// One event. False when the calendar is empty.
    func step() -> Bool {
        guard let event = calendar.next() else { return false }
        time = max(time, event.time)
        let subject = Int(event.subject)
        if let side = concerned(event.kind, subject), frozenUntil[side.rawValue] > time {
            calendar.add(event.kind, subject, at: frozenUntil[side.rawValue])
            return true
        }
        steps += 1
        if Trace.isOn { printStep(event) }
        trace = Chance.mixed(trace ^ time &+ UInt64(event.kind.rawValue) << 56 &+ UInt64(truncatingIfNeeded: subject) << 32
                             &+ UInt64(delivered))
        switch event.kind {
        case .deliver: deliver(ends[subject])
        case .take: take(ends[subject])
        case .fault: fault()
        case .relieve: relieve(subject)
        case .heal: heal()
        case .breakUp: breakUp(subject)
        case .complete: complete(ends[subject])
        case .down: lost(ends[subject])
        case .timer: handleTimer(sessions[subject], event.time)
        case .dial: handleDialTimer(event.time)
        case .connected: connected(ends[subject])
        case .expire: expire()
        case .open: openStream(subject)
        case .write: userWrites(subject)
        case .read: userReads(subject)
        case .reset: userResets(subject)
        }
        if failure == nil { pumpDirty() }
        return true
    }

    /// Whose process an event needs.
    private func concerned(_ kind: Calendar.Kind, _ subject: Int) -> Side? {
        switch kind {
        case .take, .fault, .relieve, .heal, .breakUp: nil
        case .deliver: ends[subject].side.other
        case .complete, .down: ends[subject].side
        case .timer: sessions[subject].side
        case .dial, .connected: .client
        case .expire: .server
        case .open: opener(of: subject)
        case .write, .read, .reset: side(ofUser: subject)
        }
    }

    private func lost(_ end: End) {
        guard end.isOpen else { return }
        end.side == .client ? clientLost(end) : serverLost(end)
    }

    /// A fault between honest peers is a defect; a liar must be caught, or do no harm.
    func sessionFaulted(_ session: Session, _ fault: ProtocolFault) {
        require(plan.liar != nil, "honest \(session.side.other) is accused: \(fault.rule)")
        caught = fault
    }

    // MARK: The oracle

    func require(_ holds: Bool, _ sentence: @autoclosure () -> String) {
        if !holds, failure == nil { failure = sentence() }
    }

    /// What holds after every event.
    func check(_ session: Session) {
        session.endpoint.checkInvariants()
        let limits = session.endpoint.limits
        require(session.store.tail == session.endpoint.sent, "the store does not end where the sequence ends")
        require(session.store.head <= session.endpoint.acknowledged, "bytes were released before they were acknowledged")
        require(session.endpoint.retainedByteCount <= limits.retained + World.controlReserve + Endpoint.headerMaximum,
                "more bytes are retained than the budget allows")
        session.streamPeak = max(session.streamPeak, session.endpoint.streamCount)
        require(session.held <= session.endpoint.unconsumedByteCount
                    && session.endpoint.unconsumedByteCount <= arrivalMaximum(session), "arrivals exceed the session's credit")
        require(session.endpoint.streamCount <= limits.streams * 2 + 2048, "more streams than agreed")
    }

    static let controlReserve = 1 << 20
    /// The most that a user's socket has room for, as the simulation's users say.
    static let roomMaximum = 16 << 10

    /// The receive budget; for each stream a little, and what its user's socket had room for (docs/protocol.md 7.7).
    func arrivalMaximum(_ session: Session) -> Int {
        plan.limits[session.side.rawValue].received + session.streamPeak * (Int(Endpoint.creditFloor) + World.roomMaximum)
    }

    /// Says whose the bytes from the first wrong one on are.
    func misplaced(_ user: Int, _ bytes: UnsafeRawBufferPointer, _ index: Int) -> String {
        let place = "stream \(stream(ofUser: user)) towards \(side(ofUser: user)), offset \(users[user].arrived + index)"
        let rest = UnsafeRawBufferPointer(rebasing: bytes[index..<min(bytes.count, index + 12)])
        guard rest.count >= 4 else { return "a wrong byte at \(place)" }
        for writer in users.indices {
            let pattern = Pattern(stream: stream(ofUser: writer), from: side(ofUser: writer))
            for offset in 0..<max(0, users[writer].written - rest.count + 1) where pattern.matches(rest, at: UInt64(offset)) {
                return "at \(place) stand bytes of stream \(stream(ofUser: writer)) from \(side(ofUser: writer)), offset \(offset)"
            }
        }
        return "at \(place) stand bytes that nobody wrote"
    }
}
