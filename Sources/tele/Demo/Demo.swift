import Glibc

/// `tele demo`: origin, tele server, unreliable network, tele client and driver in one command. The server
/// and the client are real processes of the real program; everything else are threads of this one.
///
///     driver ─▶ tele client ─▶ fault relay ─▶ tele server ─▶ origin
struct Demo {
    /// Why the demo stopped before its time.
    private enum Stop: Error {
        case signal(Int32)
        case failed(sentence: String, hint: String)
    }

    /// Seconds that bytes may take to arrive after the last fault is over and the senders have stopped.
    private static let drainSeconds = 10.0

    private let settings: DemoSettings
    private var screen = Screen()
    private var report: DemoReport

    init(_ settings: DemoSettings) {
        self.settings = settings
        report = DemoReport()
    }

    mutating func run() -> ExitStatus {
        // Every thread inherits this, so SIGINT and SIGTERM wait until the main thread asks for them.
        var signals = Demo.signals
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        var children: [Child] = []
        defer { for child in children { child.stop(withinSeconds: 2) } }
        do {
            let streams = try Streams(seed: UInt64.random(in: .min ... .max))
            let driver = ["-io=\(settings.io)"]
            let server = try Child(
                "the tele server", binary: settings.binary,
                driver + [
                    "-server", "-in=127.0.0.1:\(streams.originPort)", "-out=127.0.0.1:0",
                ])
            children.append(server)
            let relay = try FaultRelay(to: server.port(withinSeconds: 10))
            let client = try Child(
                "the tele client", binary: settings.binary,
                driver + [
                    "-client", "-in=127.0.0.1:0", "-out=127.0.0.1:\(relay.port)",
                ])
            children.append(client)
            let entrance = try client.port(withinSeconds: 10)
            screen.line(
                "driver -> tele client :\(entrance) -> faults :\(relay.port) -> tele server -> origin "
                    + ":\(streams.originPort)")
            try streams.open(through: entrance)
            try carry(streams, relay, children)
            for child in children.reversed() where !child.stop(withinSeconds: 5) {
                throw Stop.failed(
                    sentence: "\(child.name) did not end in order", hint: "its last lines are above")
            }
            screen.clear()
            for line in report.lines(streams) { screen.line(line) }
            screen.line("every byte arrived, once and in order", .green)
            return .fine
        } catch Stop.signal(let number) {
            screen.clear()
            screen.line("interrupted")
            return number == SIGINT ? .interrupted : .terminated
        } catch Stop.failed(let sentence, let hint) {
            return fail(sentence, hint, children)
        } catch let fault as Child.Fault {
            return fail(fault.sentence, "the lines above, if any, say why", children)
        } catch {
            return fail(
                "\(error)", "the demo needs free ports on 127.0.0.1, threads and a few descriptors", children)
        }
    }

    private mutating func fail(_ sentence: String, _ hint: String, _ children: [Child]) -> ExitStatus {
        screen.clear()
        for child in children {
            for line in child.lastLines { screen.line("\(child.name): \(visible(line, limit: 400))") }
        }
        ErrorMessage(sentence, hint: hint).print()
        return .failure
    }

    /// Sends, breaks the network by the schedule, stops the senders and waits for the last byte.
    private mutating func carry(_ streams: Streams, _ relay: FaultRelay, _ children: [Child]) throws {
        let begin = Clock.now()
        let sending = settings.sendingSeconds
        var meter = Meter(streams.flows)

        for fault in Fault.schedule(settings.faults, sendingFor: sending) {
            try watch(until: begin + fault.start, "up", .green, begin, &meter, streams, children)
            relay.begin(fault.kind)
            let started = Clock.now()
            if fault.length > 0 {
                screen.line("\(tenths(started - begin)) s  \(fault.name)")
                try watch(
                    until: started + fault.length, "\(fault.kind)", .red, begin, &meter, streams, children)
            }
            let ended = fault.length > 0 ? Clock.now() : started
            if fault.length > 0 { relay.end() }
            report.faults.append(
                .init(name: fault.name, began: started - begin, started: started, ended: ended))
            let quiet = ended + min(1.4, sending / 10)
            try watch(until: quiet, "recovering", .yellow, begin, &meter, streams, children) { [report] in
                report.recovery(of: report.faults.count - 1, streams) != nil
            }
            tellRecovery(begin, streams)
        }
        try watch(until: begin + sending, "up", .green, begin, &meter, streams, children)

        for flow in streams.flows { flow.stop() }
        try watch(
            until: Clock.now() + Demo.drainSeconds, "finishing", .yellow, begin, &meter, streams, children
        ) {
            streams.flows.allSatisfy { $0.outcome == .complete }
        }
        report.seconds = Clock.now() - begin
        try checkArrival(streams)
    }

    private mutating func tellRecovery(_ begin: Double, _ streams: Streams) {
        guard let index = report.faults.indices.last else { return }
        let fault = report.faults[index]
        let told = report.recovery(of: index, streams).map {
            "first new byte after \(decimal($0, digits: 3)) s"
        }
        screen.line("\(tenths(fault.ended - begin)) s  \(fault.name) is over, \(told ?? "no new byte yet")")
    }

    private func checkArrival(_ streams: Streams) throws {
        let flows = streams.flows
        if let late = flows.first(where: { $0.outcome == .running }) {
            throw Stop.failed(
                sentence:
                    "\(late.name): bytes from offset \(late.received) to \(late.sent) or the end after them "
                    + "did not arrive within \(Int(Demo.drainSeconds)) s",
                hint:
                    "this is a fault in tele, or a machine far too slow; the lines above are the end of its logs"
            )
        }
        for index in report.faults.indices where report.recovery(of: index, streams) == nil {
            throw Stop.failed(
                sentence: "no keystroke made since \(report.faults[index].name) arrived after it",
                hint: "this is a fault in tele; the lines above are the end of its logs")
        }
    }

    /// Until the deadline, or until `isDone`: shows progress, and throws at the first wrong byte, broken
    /// stream, dead child or signal.
    private mutating func watch(
        until deadline: Double, _ state: String, _ colour: Screen.Colour, _ begin: Double,
        _ meter: inout Meter,
        _ streams: Streams, _ children: [Child], isDone: () -> Bool = { false }
    ) throws {
        let started = Clock.now()
        while true {
            let now = Clock.now()
            let fault = streams.flows.lazy.compactMap(DemoReport.fault).first
            // A process that has just died breaks streams first and can be waited for a moment later.
            if fault != nil { Clock.sleep(0.05) }
            for child in children {
                guard let ending = child.ending() else { continue }
                throw Stop.failed(sentence: "\(child.name) \(ending)", hint: "its last lines are above")
            }
            if let fault {
                throw Stop.failed(
                    sentence: fault, hint: "this is a fault in tele; the lines above are the end of its logs")
            }
            if now >= deadline || isDone() { return }
            let since = state == "up" ? "" : " \(tenths(now - started)) s"
            screen.status(state + since, colour, meter.text(at: now, since: begin))
            try pause(min(deadline - now, state == "recovering" ? 0.02 : 0.1))
        }
    }

    private static var signals: sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGINT)
        sigaddset(&set, SIGTERM)
        sigaddset(&set, SIGHUP)
        return set
    }

    /// Sleeps, but not through a signal.
    private func pause(_ seconds: Double) throws {
        var set = Demo.signals
        var limit = timespec(tv_sec: 0, tv_nsec: Int(max(0, min(0.9, seconds)) * 1e9))
        let number = sigtimedwait(&set, nil, &limit)
        if number > 0 { throw Stop.signal(number) }
    }
}
