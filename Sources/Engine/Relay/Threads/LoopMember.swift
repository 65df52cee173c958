import Loop
import State
import Time

/// A loop's place in the group of its process: what it hears of the others, and what it lets them know of itself.
final class LoopMember {
    unowned(unsafe) private let relay: RelayProcess
    let group: LoopGroup
    /// Its number in the group: 0 is the first.
    let number: Int
    let mail: LoopMail
    /// What only the first loop does.
    let lead: LoopLead?
    private let station: LoopGroup.Station
    /// Accepted connections that it was given, so far.
    private var taken = 0
    private var wasFull = false
    private var wasDown = false
    /// Of those to settle for another program: the last.
    private var attempt = 0

    init(_ relay: RelayProcess, _ group: LoopGroup, number: Int) {
        (self.relay, self.group, self.number) = (relay, group, number)
        station = group.stations[number]
        mail = LoopMail(group.stations, number: number)
        lead = number == 0 ? LoopLead(relay, group, mail) : nil
        mail.open(wake: relay.loop.waker)
    }

    private var others: [Int] { group.stations.indices.filter { $0 != number } }

    // MARK: What the others see

    /// At the end of each turn.
    func publish() {
        defer { mail.deliver() }
        let isClient = relay.configuration.role == .client
        station.received.store(lead?.kept ?? taken, ordering: .relaxed)
        station.load.store(isClient ? relay.locals.count + (relay.client?.requests.count ?? 0) : relay.sessions.count, ordering: .relaxed)
        station.connections.store(relay.locals.count, ordering: .relaxed)
        station.turns.add(1, ordering: .relaxed)
        let readiness = readiness
        station.readiness.store(readiness.rawValue, ordering: .relaxed)
        // What one loop hears no more others may not have asked for yet.
        let isDown = relay.client?.downSince != nil
        if isDown, !wasDown { mail.tellOthers(.doubt) }
        wasDown = isDown
        if wasFull, readiness != .full, lead == nil { mail.post(.wake, to: 0) }
        wasFull = readiness == .full
        lead?.answerLate()
    }

    private var readiness: LoopGroup.Readiness {
        guard let client = relay.client else { return .ready }
        // Some may be on their way to it.
        guard client.mayAccept, relay.locals.count + min(Policy.acceptsAtOnce, relay.locals.maximum / 8) < relay.locals.maximum else { return .full }
        return client.downSince == nil ? .best : .ready
    }

    // MARK: Hearing

    func handleMessages() {
        let messages = mail.take()
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
        case .carrier(let transfer): if relay.handover.isUnderWay { LoopMail.refuse(message) } else { relay.server?.adopt(transfer) }
        case .reload(let configuration): relay.reload.run(with: configuration)
        case .renewCertificates: relay.reload.renewCertificates()
        case .stop(let gently): relay.request(gently: gently)
        case .pathMayHaveChanged: relay.client?.pathMayHaveChanged()
        case .reconnect: relay.client?.reconnect()
        case .doubt: relay.client?.ask()
        case .report(let question): mail.post(.reported(question, relay.report), to: 0)
        case .reported(let question, let report): lead?.take(report, question)
        case .settle(let number):
            attempt = number
            relay.handover.settle()
        case .settled(let loop, let number, let result): lead?.take(result, loop, number)
        case .goOn: relay.handover.goOn()
        case .wake: relay.listeners.lookForRoom()
        case .ended(let ending): lead?.handleEnded(ending)
        }
    }

    // MARK: Upgrades, of a further loop

    /// To the first: it has settled, and leaves this.
    func report(settled: Result<Successor.Legacy, StateFault>) {
        mail.post(.settled(loop: number, attempt: attempt, settled), to: 0)
        mail.deliver()
    }

    /// Blocks until the first says that the program goes on.
    func awaitGoingOn() {
        while relay.handover.isUnderWay {
            handleMessages()
            mail.deliver()
            Clock.sleep(nanoseconds: Policy.othersPause.nanoseconds)
        }
    }

    // MARK: The whole process

    /// Local sockets of all loops.
    var connections: Int { others.reduce(relay.locals.count) { $0 + group.stations[$1].connections.load(ordering: .relaxed) } }

    /// Sessions of a server: of all loops.
    var load: Int { others.reduce(relay.sessions.count) { $0 + group.stations[$1].load.load(ordering: .relaxed) } }

    /// A loop of a server has sessions.
    var hasOthersAtWork: Bool { others.contains { group.stations[$0].load.load(ordering: .relaxed) > 0 } }

    /// The loop has ended. What is still on its way to it will not be served.
    func leave(_ ending: Ending) {
        mail.close()
        station.connections.store(0, ordering: .relaxed)
        station.hasEnded.store(true, ordering: .releasing)
        if lead == nil { mail.post(.ended(ending), to: 0) }
        mail.deliver()
    }
}
