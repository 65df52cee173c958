import Relay

/// A process's status as lines for a person.
struct StatusTable {
    private let status: Status
    private let paint: (String, Int) -> String

    /// `paint`: text in a colour of ECMA-48, or as it is.
    init(_ status: Status, paint: @escaping (String, Int) -> String = { text, _ in text }) {
        self.status = status
        self.paint = paint
    }

    var lines: [String] { head + mappings + [""] + sessions + outages }

    /// Who it is, and since when.
    var head: [String] {
        let out = status.role == "client" ? "to \(status.out)" : "at \(status.out)"
        let security = status.security == "none" ? paint("no key", 33) : "with \(status.security == "key" ? "a key" : "certificates")"
        return [
            "tele \(status.role) \(status.pid), \(out), \(paint(status.state, status.state == "running" ? 32 : 33)) for "
                + "\(HumanUnits.seconds(status.uptimeSeconds)), \(status.driver)\(threads), \(security)"
        ] + successions + [
            "\(status.connections) connections, \(HumanUnits.bytes(Double(status.heldBytes))) of at most "
                + "\(HumanUnits.bytes(Double(status.role == "client" ? status.sessionBytesMaximum : status.heldBytesMaximum))) wait, \(HumanUnits.bytes(Double(status.residentBytes))) resident"
        ]
    }

    private var threads: String {
        guard let count = status.threads else { return "" }
        guard let silent = status.silentThreads, silent > 0 else { return " in \(count) threads" }
        return " in \(count) threads, \(paint("\(silent) of which \(silent == 1 ? "does" : "do") not answer", 33))"
    }

    /// Who goes on with whose connections.
    private var successions: [String] {
        guard let uptime = status.programUptimeSeconds else { return [] }
        if let line = succession("recovered from a crash", status.recoveries, uptime, status.recoveryPauseSeconds) { return [line] }
        return succession("upgraded to \(status.version)", status.upgrades, uptime, status.upgradePauseSeconds).map { [$0] } ?? []
    }

    private func succession(_ what: String, _ number: UInt64?, _ ago: Double, _ pause: Double?) -> String? {
        guard let number, number > 0, let pause else { return nil }
        let count = number > 1 ? ", \(number) times so far" : ""
        return "\(what) \(HumanUnits.seconds(ago)) ago, pause \(HumanUnits.seconds(pause))\(count)"
    }

    private var mappings: [String] {
        guard status.mappings.contains(where: { !$0.name.isEmpty || $0.kind != nil || $0.isReverse == true }) else { return [] }
        let names = status.mappings.map { $0.name.isEmpty ? "-" : $0.name }
        let width = names.map(\.count).max() ?? 0
        let addressWidth = status.mappings.map(\.address.count).max() ?? 0
        return zip(names, status.mappings).map { name, mapping in
            let how = ([mapping.kind] + [mapping.isReverse == true ? "reverse" : nil]).compactMap { $0 }.joined(separator: ", ")
            return "  \(padded(name, width))  \(how.isEmpty ? mapping.address : "\(padded(mapping.address, addressWidth))  \(how)")"
        }
    }

    private var sessions: [String] {
        guard !status.sessions.isEmpty else { return ["no session"] }
        let rows = status.sessions.map { session in
            [
                session.session == "0" ? "-" : session.session, session.name.isEmpty ? peer(session) : "\(visible(session.name)) \(peer(session))",
                "\(session.carrier.rawValue) \(HumanUnits.seconds(session.carrierSeconds))", HumanUnits.seconds(session.roundTripSeconds),
                "\(session.streams)", HumanUnits.bytes(Double(session.backlogBytes)),
                session.backlogBytes == 0 ? "-" : HumanUnits.seconds(session.backlogSeconds),
                HumanUnits.bytes(Double(session.undeliveredBytes)), "\(max(0, session.epoch - 1))",
            ]
        }
        let head = ["session", "peer", "carrier", "round trip", "streams", "waiting", "oldest", "to deliver", "resumed"]
        let widths = head.indices.map { column in ([head] + rows).map { $0[column].count }.max() ?? 0 }
        func line(_ cells: [String], carrier colour: Int? = nil) -> String {
            let columns = zip(cells, widths).enumerated().map { column, cell in
                let text = padded(cell.0, cell.1)
                return column == 2 ? colour.map { paint(text, $0) } ?? text : text
            }
            return trimmed(columns.joined(separator: "  "))
        }
        let colours: [Status.Session.Carrier: Int] = [.up: 32, .suspected: 33, .away: 31]
        let current = status.sessions.first { $0.isCurrent == true }?.server
        return [line(head)] + zip(rows, status.sessions).map { line($0, carrier: colours[$1.carrier]) }
            + (current.map { ["new connections go to \(visible($0))"] } ?? []) + paths + subflows
    }

    /// Of sessions with a second path.
    private var paths: [String] {
        status.sessions.compactMap { session in
            guard let standby = session.standby else { return nil }
            let words = session.paths?.map { figures($0) } ?? []
            return "session \(session.session) uses \(visible(session.interface ?? "its route"))\(words.first ?? ""); "
                + "\(visible(standby)) stands by\(words.dropFirst().first ?? "")"
        }
    }

    /// Of sessions that several connections carry.
    private var subflows: [String] {
        status.sessions.compactMap { session in
            guard session.subflowCount > 1, let path = session.paths?.first else { return nil }
            return "session \(session.session) is carried by \(path.connections) connections\(figures(path)), because the path loses packets"
        }
    }

    private func figures(_ path: Status.Path) -> String {
        let loss = path.lossRatio > 0 ? ", \(HumanUnits.percent(path.lossRatio)) lost" : ""
        return " (\(HumanUnits.seconds(path.roundTripSeconds)), \(HumanUnits.bytes(path.bytesPerSecond))/s\(loss))"
    }

    /// One that is away has none: then the server that is dialled for it.
    private func peer(_ session: Status.Session) -> String { session.peer.isEmpty ? visible(session.server ?? "") : session.peer }

    private var outages: [String] {
        guard !status.outages.isEmpty else { return ["", "no outage so far"] }
        return [""]
            + status.outages.suffix(5).reversed().map { outage in
                "outage of \(HumanUnits.seconds(outage.lengthSeconds)), over \(HumanUnits.seconds(outage.agoSeconds)) ago: "
                    + (outage.recoverySeconds == 0
                        ? "the same carrier went on"
                        : "\(HumanUnits.bytes(Double(outage.replayedBytes))) sent again, \(HumanUnits.seconds(outage.recoverySeconds)) after the dial")
            }
    }

    private func padded(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }

    private func trimmed(_ text: String) -> String {
        var text = text
        while text.last == " " { text.removeLast() }
        return text
    }
}
