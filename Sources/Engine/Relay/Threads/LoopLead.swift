import Loop
import State
import Time

/// What the first of a process's loops does for all of them: it hands out accepted connections, asks what each does, gathers what they leave to
/// another program, and ends last.
final class LoopLead {
    unowned(unsafe) private let relay: RelayProcess
    private let group: LoopGroup
    private let mail: LoopMail
    private var dispatcher: Dispatcher
    /// The others know the places of all listeners.
    private var hasToldPlaces = true

    init(_ relay: RelayProcess, _ group: LoopGroup, _ mail: LoopMail) {
        (self.relay, self.group, self.mail) = (relay, group, mail)
        dispatcher = Dispatcher(group.stations)
        turnsSeen = [Int](repeating: 0, count: group.count)
    }

    private var others: Range<Int> { 1..<group.count }
    private var running: Int { others.count { !group.stations[$0].hasEnded.load(ordering: .acquiring) } }

    // MARK: Accepted connections

    /// Accepted connections that it kept, so far.
    var kept: Int { dispatcher.given[0] }

    /// Some loop has room for one more user.
    var hasRoom: Bool { dispatcher.hasRoom }

    /// Gives an accepted connection to the loop that has least to do. False: that is the first itself.
    func give(_ fd: Int32, at place: Int) -> Bool {
        // Loops that have settled take nothing more; what is left to do is this one's.
        guard !relay.handover.isUnderWay else { return false }
        let loop = dispatcher.next(now: relay.now)
        guard loop != 0 else { return false }
        if !hasToldPlaces {
            hasToldPlaces = true
            mail.tellOthers(.places(relay.listeners.mappingsByPlace))
        }
        mail.post(.accepted(fd: fd, place: place), to: loop)
        return true
    }

    /// Listeners were added, or lead elsewhere.
    func handlePlacesChanged() { hasToldPlaces = false }

    // MARK: Reports

    /// Somebody waits for the reports of all loops.
    private struct Question {
        let number: Int
        let until: UInt64
        var reports: [LoopReport] = []
        let answer: (LoopReport) -> Void
    }

    private var questions: [Question] = []
    private var lastQuestion = 0

    /// Asks all loops what they do. One that does not answer in time is left out.
    func ask(_ answer: @escaping (LoopReport) -> Void) {
        lastQuestion += 1
        questions.append(Question(number: lastQuestion, until: relay.now + Policy.reportPatience.nanoseconds, answer: answer))
        mail.tellOthers(.report(lastQuestion))
        relay.timers.set(Operation.reportsLate.token(), at: questions[0].until)
        answerIfComplete()
    }

    func take(_ report: LoopReport, _ number: Int) {
        guard let index = questions.firstIndex(where: { $0.number == number }) else { return }
        questions[index].reports.append(report)
        answerIfComplete()
    }

    private func answerIfComplete() { while let first = questions.first, first.reports.count >= running { answerNext() } }

    /// At the end of each turn.
    func answerLate() { if let first = questions.first, relay.now >= first.until { answerNext() } }

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

    /// This loop settles: the others shall, too.
    func settleOthers() {
        attempt += 1
        mail.tellOthers(.settle(attempt: attempt))
    }

    /// The others have settled, too.
    var hasLegacies: Bool { left.count == others.count }
    var legacies: [Successor.Legacy] { left.sorted { $0.key < $1.key }.map(\.value) }

    func take(_ result: Result<Successor.Legacy, StateFault>, _ loop: Int, _ number: Int) {
        let isWanted = number == attempt && relay.handover.isUnderWay
        switch result {
        case .success(let legacy): if isWanted { left[loop] = legacy } else { legacy.discard() }
        case .failure(let fault): if isWanted { relay.handover.giveUp("the state cannot be saved: \(fault.reason)") }
        }
    }

    /// The program goes on, and the others with it.
    func discardLegacies() {
        for legacy in left.values { legacy.discard() }
        left = [:]
        mail.tellOthers(.goOn)
        mail.deliver()
    }

    // MARK: Signs of life, and the end

    /// How far the others were when they were last asked for a sign of life.
    private var turnsSeen: [Int]

    /// Every loop has turned since it was last asked to; all are asked again.
    func areOthersAlive() -> Bool {
        let turns = group.stations.map { $0.turns.load(ordering: .relaxed) }
        defer {
            turnsSeen = turns
            mail.tellOthers(.wake)
        }
        return others.allSatisfy { turns[$0] > turnsSeen[$0] || group.stations[$0].hasEnded.load(ordering: .acquiring) }
    }

    /// A loop has ended by itself, with this.
    private(set) var fault: StartFault?

    /// No other loop runs any more.
    var isAlone: Bool { running == 0 }

    func handleEnded(_ ending: Ending) {
        answerIfComplete()
        guard case .failed(let fault) = ending, self.fault == nil else { return }
        self.fault = fault
        relay.request(gently: false)
    }

    /// Blocks until the others have ended, for a moment: what they have to say they have said.
    func awaitOthers() {
        let pause = Policy.othersPause.nanoseconds
        for _ in 0..<Policy.othersPatience.nanoseconds / pause where !isAlone { Clock.sleep(nanoseconds: pause) }
        for message in mail.take() {
            if case .ended(.failed(let fault)) = message, self.fault == nil { self.fault = fault }
        }
    }
}
