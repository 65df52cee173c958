/// What the demo found out.
struct DemoReport {
    struct FaultRecord {
        let name: String
        /// Seconds after the begin, for people.
        let began: Double
        /// On the demo's clock.
        let started, ended: Double
    }

    var faults: [FaultRecord] = []
    var seconds = 0.0

    /// Seconds from the end of a fault until, in both directions, a keystroke made since it began had
    /// arrived.
    func recovery(of index: Int, _ streams: Streams) -> Double? {
        let fault = faults[index]
        var slowest = 0.0
        for flow in streams.keystrokes {
            guard let arrived = flow.firstArrival(sentAfter: fault.started, arrivedAfter: fault.ended) else {
                return nil
            }
            slowest = max(slowest, arrived - fault.ended)
        }
        return slowest
    }

    func lines(_ streams: Streams) -> [String] {
        let flows = streams.flows
        let total = flows.reduce(0) { $0 + $1.received }
        var lines = [
            "compared \(size(total)) in \(flows.count) directions of \(streams.all.count) connections, "
                + "in \(tenths(seconds)) s"
        ]
        for flow in flows {
            lines.append(
                "  \(padded(flow.name, 16)) \(padded(size(flow.received), 12)) of \(size(flow.sent))")
        }
        if !faults.isEmpty { lines.append("  fault            first new byte after it") }
        for (index, fault) in faults.enumerated() {
            let time = recovery(of: index, streams).map { "\(decimal($0, digits: 3)) s" } ?? "never"
            lines.append("  \(padded(fault.name, 16)) \(time)")
        }
        return lines
    }

    /// What is wrong with a flow, as a sentence; nil while all is well.
    static func fault(_ flow: Flow) -> String? {
        switch flow.outcome {
        case .running, .complete:
            return nil
        case .wrong(let offset, let byte, let expected):
            return
                "\(flow.name): the first wrong byte is at offset \(offset), \(hex(byte)) instead of \(hex(expected))"
        case .ended(let offset, let sent):
            return "\(flow.name): ended cleanly at offset \(offset), though \(sent) bytes were sent"
        case .invented(let offset):
            return "\(flow.name): bytes arrived that were never sent, from offset \(offset)"
        case .broken(let offset, let call, let reason):
            return "\(flow.name): broke at offset \(offset) (\(call): \(reason))"
        }
    }

    private static func hex(_ byte: UInt8) -> String {
        let digits = String(byte, radix: 16)
        return "0x" + (digits.count < 2 ? "0" : "") + digits
    }
}

func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
}

/// Bytes for people: `812 B`, `1.5 MiB`.
func size(_ byteCount: Int) -> String {
    switch byteCount {
    case ..<10240: "\(byteCount) B"
    case ..<(10 << 20): "\(tenths(Double(byteCount) / 1024)) KiB"
    default: "\(tenths(Double(byteCount) / Double(1 << 20))) MiB"
    }
}
