import Loop

/// What one loop of a process sends to the others. Messages of a turn go out together, at its end: one wakes a loop as well as many, which are
/// then one turn's work there, too.
final class LoopMail {
    private let stations: [LoopGroup.Station]
    private let number: Int
    /// By the loop that they are for.
    private var outbox: [[LoopMessage]]

    /// `number`: the loop's own.
    init(_ stations: [LoopGroup.Station], number: Int) {
        (self.stations, self.number) = (stations, number)
        outbox = [[LoopMessage]](repeating: [], count: stations.count)
    }

    private var mailbox: Mailbox<LoopMessage> { stations[number].mailbox }

    /// `wake` is called whenever something was posted for this loop, by whoever posts.
    func open(wake: @escaping @Sendable () -> Void) { mailbox.open(wake: wake) }

    func post(_ message: LoopMessage, to loop: Int) { outbox[loop].append(message) }

    /// To all other loops.
    func tellOthers(_ message: LoopMessage) { for loop in outbox.indices where loop != number { post(message, to: loop) } }

    /// At the end of a turn, and where there is none.
    func deliver() {
        for loop in outbox.indices where !outbox[loop].isEmpty {
            if !stations[loop].mailbox.post(outbox[loop]) { for message in outbox[loop] { LoopMail.refuse(message) } }
            outbox[loop].removeAll(keepingCapacity: true)
        }
    }

    /// What the others have sent.
    func take() -> [LoopMessage] { mailbox.take() }

    /// Nobody may wake the loop any more. Connections that are still on their way to it end as if they had not been accepted.
    func close() { for message in mailbox.close() { LoopMail.refuse(message) } }

    /// What it owns has no taker.
    static func refuse(_ message: LoopMessage) {
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
}
