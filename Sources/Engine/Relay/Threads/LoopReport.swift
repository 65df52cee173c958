/// What a loop does, at one moment.
struct LoopReport: @unchecked Sendable {
    var status: Status
    var histograms: Histograms
    /// Why a new user of it would wait. Nil: it would not.
    var unreadiness: String?

    /// Together with those of other loops of its process, which has so many in all.
    func adding(_ others: [LoopReport], threads: Int) -> LoopReport {
        var sum = self
        for other in others {
            sum.status.add(other.status)
            sum.histograms.add(other.histograms)
            // A user goes to a loop that is ready.
            if sum.status.state == "running", other.unreadiness == nil { sum.unreadiness = nil }
        }
        sum.status.threads = threads
        sum.status.silentThreads = threads - 1 - others.count
        return sum
    }
}

extension RelayProcess {
    var report: LoopReport { LoopReport(status: status, histograms: events.histograms, unreadiness: unreadiness) }
}

extension Status {
    /// What the process has once stays as it is.
    fileprivate mutating func add(_ other: Status) {
        connections += other.connections
        readBytes += other.readBytes
        takenBytes += other.takenBytes
        splicedBytes += other.splicedBytes
        passedBytes += other.passedBytes
        heldBytes += other.heldBytes
        heldBytesMaximum += other.heldBytesMaximum
        waitingBytes += other.waitingBytes
        sessions += other.sessions
        mappingTraffic = Status.sum(mappingTraffic, other.mappingTraffic)
        clientTraffic = Status.sum(clientTraffic, other.clientTraffic)
        outages = (outages + other.outages).sorted { $0.agoSeconds > $1.agoSeconds }.suffix(Policy.outagesMaximum)
        counters.add(other.counters)
    }

    private static func sum(_ one: [Traffic], _ other: [Traffic]) -> [Traffic] {
        let sums = Dictionary((one + other).map { ($0.name, $0) }) { first, second in
            Traffic(
                name: first.name, open: first.open + second.open, opened: first.opened + second.opened, readBytes: first.readBytes + second.readBytes,
                takenBytes: first.takenBytes + second.takenBytes)
        }
        return sums.values.sorted { $0.name < $1.name }
    }
}
