/// The numbers of the redrawn line.
struct Meter {
    private let flows: [Flow]
    /// What had arrived by when, over the last second.
    private var samples: [(time: Double, received: Int)] = []

    init(_ flows: [Flow]) { self.flows = flows }

    mutating func text(at now: Double, since begin: Double) -> String {
        let received = flows.reduce(0) { $0 + $1.received }
        let sent = flows.reduce(0) { $0 + $1.sent }
        samples.removeAll { $0.time < now - 1 }
        var rate = 0.0
        if let oldest = samples.first, now > oldest.time {
            rate = Double(received - oldest.received) / (now - oldest.time)
        }
        samples.append((now, received))
        return "  \(tenths(now - begin)) s  \(tenths(rate / Double(1 << 20))) MiB/s  "
            + "\(size(max(0, sent - received))) on the way  \(size(received)) compared"
    }
}
