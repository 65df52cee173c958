import Control
import Glibc
import Loop
import State
import Time

/// A loop's place in the group of its process: what it tells the others, and what it hears of them. The first loop also chooses where an accepted
/// connection goes, and asks all of them when somebody wants to know what the process does.
final class LoopMember {
    unowned(unsafe) private let relay: RelayProcess
    let group: LoopGroup
    /// Its number in the group: 0 is the first.
    let number: Int
    private let station: LoopGroup.Station
    /// Accepted connections that it has taken, so far.
    private var taken = 0
    /// Messages of this turn, by the loop that they are for.
    private var outbox: [[LoopMessage]]
    private var wasFull = false
    private var wasDown = false

    // Of the first.
    /// Accepted connections that were given to each, so far.
    private var given: [Int]
    /// Where the next choice among equals begins.
    private var turn = 0
    /// The others know the places of all listeners.
    private var hasToldPlaces = true
    private var questions: [Question] = []
    private var lastQuestion = 0
    /// How far the others were when they were last asked for a sign of life.
    private var turnsSeen: [Int]
    /// A loop has ended by itself, with this.
    private(set) var fault: StartFault?

    /// Somebody waits for the reports of all loops.
    private struct Question {
        let number: Int
        let until: UInt64
        var reports: [LoopReport] = []
        let answer: (LoopReport) -> Void
    }

    init(_ relay: RelayProcess, _ group: LoopGroup, number: Int) {
        (self.relay, self.group, self.number) = (relay, group, number)
        station = group.stations[number]
        given = [Int](repeating: 0, count: group.count)
        turnsSeen = given
        outbox = [[LoopMessage]](repeating: [], count: group.count)
        open(wake: relay.loop.waker)
    }

    /// `wake` is called whenever something was posted, by whoever posts.
    func open(wake: @escaping @Sendable () -> Void) { station.mailbox.open(wake: wake) }

    var isFirst: Bool { number == 0 }
    private var others: [Int] { group.stations.indices.filter { $0 != number } }

    // MARK: Telling

    /// It goes out with the others of this turn: one wakes a loop as well as many, which are then one turn's work there, too.
    func post(_ message: LoopMessage, to loop: Int) { outbox[loop].append(message) }

    /// To all other loops.
    func tellOthers(_ message: LoopMessage) { for other in others { post(message, to: other) } }

    /// Where there is no end of a turn.
    func deliver() {
        for loop in outbox.indices where !outbox[loop].isEmpty {
            if !group.stations[loop].mailbox.post(outbox[loop]) { for message in outbox[loop] { refuse(message) } }
            outbox[loop].removeAll(keepingCapacity: true)
        }
    }

    /// At the end of each turn.
    func publish() {
        defer { deliver() }
        let isClient = relay.configuration.role == .client
        station.received.store(isFirst ? given[0] : taken, ordering: .relaxed)
        station.load.store(isClient ? relay.locals.count + (relay.client?.requests.count ?? 0) : relay.sessions.count, ordering: .relaxed)
        station.connections.store(relay.locals.count, ordering: .relaxed)
        station.turns.add(1, ordering: .relaxed)
        let readiness = readiness
        station.readiness.store(readiness.rawValue, ordering: .relaxed)
        // What one loop hears no more others may not have asked for yet.
        let isDown = relay.client?.downSince != nil
        if isDown, !wasDown { tellOthers(.doubt) }
        wasDown = isDown
        if wasFull, readiness != .full, !isFirst { post(.wake, to: 0) }
        wasFull = readiness == .full
        if isFirst, let first = questions.first, relay.now >= first.until { answerNext() }
    }

    private var readiness: LoopGroup.Readiness {
        guard let client = relay.client else { return .ready }
        // Some may be on their way to it.
        guard client.mayAccept, relay.locals.count + min(Policy.acceptsAtOnce, relay.locals.maximum / 8) < relay.locals.maximum else { return .full }
        return client.downSince == nil ? .best : .ready
    }

    // MARK: Hearing

    func handleMessages() {
        let messages = station.mailbox.take()
        guard !messages.isEmpty else { return }
        // No time that they name is later than this.
        relay.readClock()
        for message in messages { handle(message) }
    }

    private func handle(_ message: LoopMessage) {
        switch message {
        case .places(let mappings): relay.listeners.mirror(mappings)
        case .accepted(let fd, let place):
            taken += 1
            relay.host.handleAccepted(fd, relay.configuration.role == .client ? relay.listeners.mapping(at: place) : nil, UInt16(place))
        // While the program is replaced no carrier begins: the client dials again.
        case .carrier(let transfer): if relay.handover.isUnderWay { refuse(message) } else { relay.server?.adopt(transfer) }
        case .reload(let configuration): relay.reload.run(with: configuration)
        case .renewCertificates: relay.reload.renewCertificates()
        case .stop(let gently): relay.request(gently: gently)
        case .pathMayHaveChanged: relay.client?.pathMayHaveChanged()
        case .reconnect: relay.client?.reconnect()
        case .doubt: relay.client?.ask()
        case .report(let question): post(.reported(question, relay.report), to: 0)
        case .reported(let question, let report): take(report, question)
        case .settle(let number):
            attempt = number
            relay.handover.settle()
        case .settled(let loop, let number, let result): take(result, loop, number)
        case .goOn: relay.handover.goOn()
        case .wake: relay.listeners.lookForRoom()
        case .ended(let ending): handleEnded(ending)
        }
    }

    /// What is still in the mailbox will not be served: connections end as if they had not been accepted.
    func leave(_ ending: Ending) {
        close()
        station.connections.store(0, ordering: .relaxed)
        station.hasEnded.store(true, ordering: .releasing)
        if !isFirst { post(.ended(ending), to: 0) }
        deliver()
    }

    /// Nobody may wake the loop any more.
    func close() { for message in station.mailbox.close() { refuse(message) } }

    /// What it owns has no taker.
    private func refuse(_ message: LoopMessage) {
        let fd: Int32
        switch message {
        case .accepted(let accepted, _): fd = accepted
        case .carrier(let transfer): fd = transfer.fd
        case .settled(_, _, .success(let legacy)): return legacy.discard()
        default: return
        }
        Socket.abortOnClose(fd)
        Socket.close(fd)
    }

    // MARK: Accepted connections

    /// Some loop has room for one more user.
    var mayGive: Bool { group.stations.contains { $0.readiness.load(ordering: .relaxed) != LoopGroup.Readiness.full.rawValue } }

    /// Gives an accepted connection to the loop that has least to do, of those in the best state. False: that is the first itself.
    func give(_ fd: Int32, at place: Int) -> Bool {
        // Loops that have settled take nothing more; what is left to do is this one's.
        guard !relay.handover.isUnderWay else { return false }
        turn = (turn + 1) % group.count
        var (best, bestRank) = (0, (state: UInt8(0), load: Int.max))
        for offset in 0..<group.count {
            let loop = (turn + offset) % group.count
            let station = group.stations[loop]
            let state = station.readiness.load(ordering: .relaxed)
            let load = station.load.load(ordering: .relaxed) + given[loop] - station.received.load(ordering: .relaxed)
            guard state > bestRank.state || state == bestRank.state && load < bestRank.load else { continue }
            (best, bestRank) = (loop, (state, load))
        }
        guard best != number else {
            given[best] += 1
            return false
        }
        if !hasToldPlaces {
            hasToldPlaces = true
            tellOthers(.places(relay.listeners.mappingsByPlace))
        }
        post(.accepted(fd: fd, place: place), to: best)
        given[best] += 1
        return true
    }

    /// Listeners were added, or lead elsewhere.
    func handlePlacesChanged() { hasToldPlaces = false }

    // MARK: Reports

    /// Asks all loops what they do. One that does not answer in time is left out.
    func ask(_ answer: @escaping (LoopReport) -> Void) {
        lastQuestion += 1
        questions.append(Question(number: lastQuestion, until: relay.now + Policy.reportPatience.nanoseconds, answer: answer))
        tellOthers(.report(lastQuestion))
        relay.timers.set(Operation.reportsLate.token(), at: questions[0].until)
        answerIfComplete()
    }

    private func take(_ report: LoopReport, _ number: Int) {
        guard let index = questions.firstIndex(where: { $0.number == number }) else { return }
        questions[index].reports.append(report)
        answerIfComplete()
    }

    private var running: Int { others.count { !group.stations[$0].hasEnded.load(ordering: .acquiring) } }

    private func answerIfComplete() { while let first = questions.first, first.reports.count >= running { answerNext() } }

    private func answerNext() {
        let question = questions.removeFirst()
        if let next = questions.first { relay.timers.set(Operation.reportsLate.token(), at: next.until) }
        question.answer(relay.report.adding(question.reports, threads: group.count))
    }

    // MARK: Upgrades

    /// Of those to settle, so far. What a loop says of an earlier one is old: it has gone on since.
    private var attempt = 0
    /// What the others leave to the next program, by their numbers.
    private var left: [Int: Successor.Legacy] = [:]

    /// The first loop settles: the others shall, too.
    func settleOthers() {
        attempt += 1
        tellOthers(.settle(attempt: attempt))
    }

    /// The other loops have settled, too.
    var hasLegacies: Bool { !isFirst || left.count == others.count }
    var legacies: [Successor.Legacy] { left.sorted { $0.key < $1.key }.map(\.value) }

    /// To the first.
    func report(settled: Result<Successor.Legacy, StateFault>) {
        post(.settled(loop: number, attempt: attempt, settled), to: 0)
        deliver()
    }

    private func take(_ result: Result<Successor.Legacy, StateFault>, _ loop: Int, _ number: Int) {
        let isWanted = number == attempt && relay.handover.isUnderWay
        switch result {
        case .success(let legacy): if isWanted { left[loop] = legacy } else { legacy.discard() }
        case .failure(let fault): if isWanted { relay.handover.giveUp("the state cannot be saved: \(fault.reason)") }
        }
    }

    /// The program goes on, and the others with it.
    func discardLegacies() {
        guard isFirst else { return }
        for legacy in left.values { legacy.discard() }
        left = [:]
        tellOthers(.goOn)
        deliver()
    }

    /// Blocks until the first says that the program goes on.
    func awaitGoingOn() {
        while relay.handover.isUnderWay {
            handleMessages()
            deliver()
            Clock.sleep(nanoseconds: Policy.othersPause.nanoseconds)
        }
    }

    // MARK: The end

    /// Local sockets of all loops.
    var connections: Int { others.reduce(relay.locals.count) { $0 + group.stations[$1].connections.load(ordering: .relaxed) } }

    /// Sessions of a server: of all loops.
    var load: Int { others.reduce(relay.sessions.count) { $0 + group.stations[$1].load.load(ordering: .relaxed) } }

    /// A loop of a server has sessions.
    var hasOthersAtWork: Bool { others.contains { group.stations[$0].load.load(ordering: .relaxed) > 0 } }

    /// No other loop runs any more.
    var isAlone: Bool { running == 0 }

    private func handleEnded(_ ending: Ending) {
        answerIfComplete()
        guard case .failed(let fault) = ending, self.fault == nil else { return }
        self.fault = fault
        relay.request(gently: false)
    }

    /// Blocks until the others have ended, for a moment: what they have to say they have said.
    func awaitOthers() {
        let pause = Policy.othersPause.nanoseconds
        for _ in 0..<Policy.othersPatience.nanoseconds / pause where !isAlone { Clock.sleep(nanoseconds: pause) }
        for message in station.mailbox.take() {
            if case .ended(.failed(let fault)) = message, self.fault == nil { self.fault = fault }
        }
    }

    /// Every loop has turned since it was last asked to; all are asked again.
    func areOthersAlive() -> Bool {
        let turns = group.stations.map { $0.turns.load(ordering: .relaxed) }
        defer {
            turnsSeen = turns
            tellOthers(.wake)
        }
        return others.allSatisfy { turns[$0] > turnsSeen[$0] || group.stations[$0].hasEnded.load(ordering: .acquiring) }
    }
}
