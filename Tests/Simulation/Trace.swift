/// What happened, step by step, for the reader of a seed that failed.
public enum Trace {
    nonisolated(unsafe) public static var isOn = false
}

extension World {
    func printStep(_ event: Calendar.Event) {
        let since = (time - startTime) / 1000
        var line = "\(steps) +\(since) us \(event.kind) \(event.subject)"
        for session in sessions where !session.isOver {
            line += " | \(session.side) \(session.number): acknowledged \(session.endpoint.acknowledged)"
                + " cursor \(session.endpoint.cursor) sent \(session.endpoint.sent)"
                + " received \(session.endpoint.received) streams \(session.endpoint.streamCount)"
            if let end = session.end { line += " on \(end.number)" }
            if session.endpoint.isSuspected { line += " suspected" }
            if session === client.session, client.dialer.isSeeking { line += " seeking" }
        }
        print(line)
    }
}
