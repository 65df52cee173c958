import Glibc

/// The same as `Status`, for Prometheus: its text format, version 0.0.4, and its conventions for names.
enum Metrics {
    static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    static func text(_ status: Status, _ histograms: Histograms) -> String {
        var page = Page()
        page.gauge("tele_build_info", "Always 1; the labels say what runs.", 1, ["version": status.version, "role": status.role, "driver": status.driver])
        page.gauge("tele_uptime_seconds", "Time since the process started; upgrades do not count as starts.", status.uptimeSeconds)
        page.counter("tele_upgrades_total", "Upgrades of the running process.", status.upgrades ?? 0)
        page.gauge("tele_upgrade_pause_seconds", "Pause of the last upgrade.", status.upgradePauseSeconds ?? 0)
        page.counter("tele_recoveries_total", "Deaths of the process that its connections survived (-keeper).", status.recoveries ?? 0)
        page.gauge("tele_recovery_pause_seconds", "Pause of the last of them.", status.recoveryPauseSeconds ?? 0)
        page.gauge("tele_draining", "1 while the process drains or stops.", status.state == "running" ? 0 : 1)
        page.gauge("tele_connections", "Connections of users, or to origins, that are open.", Double(status.connections))
        page.gauge("tele_sessions", "Sessions, with a carrier or without.", Double(status.sessions.count))
        for (state, carrier) in [("up", Status.Session.Carrier.up), ("suspected", .suspected), ("away", .away)] {
            page.gauge(
                "tele_session_carriers", "Sessions by the state of their carrier.",
                Double(status.sessions.count { $0.carrier == carrier }), ["state": state])
        }
        page.gauge(
            "tele_session_standbys", "Sessions that can continue over a second path at once.", Double(status.sessions.count { $0.standby != nil }))
        page.gauge(
            "tele_subflows", "Further connections that carry sessions, where a path loses packets.",
            Double(status.sessions.reduce(0) { $0 + $1.subflowCount }))
        paths(status, &page)
        page.gauge("tele_streams", "Streams that are open.", Double(status.sessions.reduce(0) { $0 + $1.streams }))
        page.gauge("tele_backlog_bytes", "Bytes sent or waiting that the other side has not acknowledged.", Double(status.heldBytes))
        page.gauge("tele_backlog_limit_bytes", "Bytes at which tele stops reading, all sessions together (-memory).", Double(status.heldBytesMaximum))
        page.gauge(
            "tele_session_backlog_bytes", "Bytes that are not acknowledged, in the session that has most.",
            Double(status.sessions.map(\.backlogBytes).max() ?? 0))
        page.gauge(
            "tele_session_backlog_limit_bytes", "Bytes at which tele stops reading, one session (-buffer).",
            Double(status.sessionBytesMaximum))
        page.gauge(
            "tele_backlog_age_seconds", "How long the oldest byte that is not acknowledged has waited.", status.sessions.map(\.backlogSeconds).max() ?? 0)
        page.gauge("tele_undelivered_bytes", "Bytes from the other side that users or origins have not taken.", Double(status.waitingBytes))
        page.gauge("tele_resident_memory_bytes", "Memory in use.", Double(status.residentBytes))
        page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", Double(status.residentBytes))
        page.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", startTime(status))
        if let expiry = status.certificateExpiry {
            page.gauge("tele_certificate_expiry_timestamp_seconds", "When this side's certificates expire, since unix epoch.", expiry)
        }
        servers(status, &page)
        counters(status, &page)
        traffic("mapping", "Connections of this mapping", status.mappingTraffic, &page)
        traffic("client", "Sessions of this client", status.clientTraffic, &page)
        for (name, help, histogram) in histograms.all { page.histogram(name, help, histogram) }
        return page.text
    }

    private static func startTime(_ status: Status) -> Double {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9 - status.uptimeSeconds
    }

    private static func traffic(_ label: String, _ what: String, _ all: [Status.Traffic], _ page: inout Page) {
        for one in all { page.gauge("tele_\(label)_open", "\(what) that are open.", Double(one.open), [label: one.name]) }
        for one in all { page.counter("tele_\(label)_opened_total", "\(what) that were opened.", one.opened, [label: one.name]) }
        for one in all {
            page.counter("tele_\(label)_received_bytes_total", "Bytes read from users or origins, by \(label).", one.readBytes, [label: one.name])
        }
        for one in all {
            page.counter("tele_\(label)_sent_bytes_total", "Bytes that users or origins took, by \(label).", one.takenBytes, [label: one.name])
        }
    }

    /// By the interface of this host that its connections use; empty: as the route says, which a server always has.
    private static func paths(_ status: Status, _ page: inout Page) {
        let all = Dictionary(grouping: status.sessions.flatMap { $0.paths ?? [] }) { $0.interface ?? "" }.sorted { $0.key < $1.key }
        for (interface, paths) in all {
            page.gauge("tele_path_sessions", "Sessions that this path carries.", Double(paths.count { $0.role == .carries }), ["interface": interface])
        }
        for (interface, paths) in all {
            let least = paths.map(\.roundTripSeconds).filter { $0 > 0 }.min() ?? 0
            page.gauge(
                "tele_path_round_trip_seconds", "Round trip that TCP measures on this path, the least of its connections.", least, ["interface": interface])
        }
        for (interface, paths) in all {
            let rate = paths.reduce(0) { $0 + $1.bytesPerSecond }
            page.gauge(
                "tele_path_bytes_per_second", "Outgoing rate that TCP measured last on this path, all connections together.", rate, ["interface": interface])
        }
        for (interface, paths) in all {
            page.gauge(
                "tele_path_loss_ratio", "Of the segments sent on this path, the part that was sent again, of the connection with most.",
                paths.map(\.lossRatio).max() ?? 0, ["interface": interface])
        }
    }

    /// Only of a client that has several.
    private static func servers(_ status: Status, _ page: inout Page) {
        for session in status.sessions {
            guard let server = session.server, let isCurrent = session.isCurrent else { continue }
            page.gauge(
                "tele_server_up", "1 while a carrier to this server works; of clients with several servers.", session.carrier == .up ? 1 : 0,
                ["server": server, "current": isCurrent ? "1" : "0"])
        }
    }

    private static func counters(_ status: Status, _ page: inout Page) {
        let counters = status.counters
        page.counter("tele_user_received_bytes_total", "Bytes read from users or origins.", status.readBytes)
        page.counter("tele_user_sent_bytes_total", "Bytes that users or origins took.", status.takenBytes)
        page.counter("tele_user_spliced_bytes_total", "Of the bytes read: those spliced into carriers.", status.splicedBytes)
        page.counter("tele_user_passed_bytes_total", "Of the bytes taken: those spliced from carriers.", status.passedBytes)
        page.counter("tele_carriers_total", "Carriers that began or resumed a session.", counters.carriers)
        page.counter("tele_carriers_lost_total", "Carriers that were lost.", counters.carriersLost)
        page.counter("tele_sessions_total", "Sessions that were opened.", counters.sessions)
        page.counter("tele_resumes_total", "Sessions that were resumed on a new carrier.", counters.resumes)
        page.counter("tele_suspicions_total", "Times when an answer was overdue and the carrier was suspected.", counters.suspicions)
        page.counter("tele_suspicions_wrong_total", "Suspicions after which the same carrier answered.", counters.wrongSuspicions)
        page.counter("tele_dial_failures_total", "Attempts to reach the server that failed.", counters.dialFailures)
        page.counter("tele_refusals_total", "Peers that were rejected: no tele, no valid key, or a handshake that failed.", counters.refusals)
        page.counter("tele_sessions_lost_total", "Sessions that the server no longer knew: their connections were reset.", counters.sessionsLost)
        page.counter("tele_sessions_expired_total", "Sessions that were without a carrier for longer than -hold.", counters.sessionsExpired)
        page.counter("tele_sessions_evicted_total", "Sessions that were ended for want of room, or because their key is gone.", counters.sessionsEvicted)
        page.counter("tele_protocol_faults_total", "Protocol violations by peers.", counters.faults)
        page.counter("tele_streams_total", "Streams that were opened.", counters.streams)
        page.counter("tele_streams_reset_total", "Streams that the other side reset.", counters.streamsReset)
        page.counter("tele_origin_failures_total", "Streams whose origin was not reached.", counters.originFailures)
        page.counter("tele_accept_failures_total", "Connections that could not be accepted (descriptors, memory).", counters.acceptFailures)
        page.counter("tele_connections_refused_total", "Connections that were refused because of -refuse-after.", counters.connectionsRefused)
        page.counter("tele_forbidden_total", "Requests of clients that the server's permissions do not allow.", counters.forbidden)
        page.counter("tele_server_changes_total", "Changes of the server that gets new connections.", counters.serverChanges)
        page.counter("tele_pauses_total", "Times when this process did not run for seconds (sleep, SIGSTOP).", counters.pauses)
    }

    /// Lines of the format. A name's help and type come once, before its first value.
    private struct Page {
        private(set) var text = ""
        private var last = ""

        mutating func gauge(_ name: String, _ help: String, _ value: Double, _ labels: KeyValuePairs<String, String> = [:]) {
            add(name, help, "gauge", number(value), labels)
        }

        mutating func counter(_ name: String, _ help: String, _ value: UInt64, _ labels: KeyValuePairs<String, String> = [:]) {
            add(name, help, "counter", "\(value)", labels)
        }

        mutating func histogram(_ name: String, _ help: String, _ histogram: Histograms.One) {
            head(name, help, "histogram")
            for bound in histogram.bounds {
                text += "\(name)_bucket{le=\"\(number(bound))\"} \(histogram.count(upTo: bound))\n"
            }
            text += "\(name)_bucket{le=\"+Inf\"} \(histogram.count)\n\(name)_sum \(number(histogram.sum))\n\(name)_count \(histogram.count)\n"
        }

        private mutating func head(_ name: String, _ help: String, _ type: String) {
            guard name != last else { return }
            last = name
            text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
        }

        private mutating func add(
            _ name: String, _ help: String, _ type: String, _ value: String,
            _ labels: KeyValuePairs<String, String>
        ) {
            head(name, help, type)
            let pairs = labels.map { "\($0)=\"\(escaped($1))\"" }.joined(separator: ",")
            text += "\(name)\(pairs.isEmpty ? "" : "{\(pairs)}") \(value)\n"
        }

        private func number(_ value: Double) -> String {
            value == value.rounded() && abs(value) < 1e15 ? "\(Int64(value))" : "\(value)"
        }

        private func escaped(_ text: String) -> String {
            text.reduce(into: "") { $0 += $1 == "\\" || $1 == "\"" ? "\\\($1)" : $1 == "\n" ? "\\n" : "\($1)" }
        }
    }
}
