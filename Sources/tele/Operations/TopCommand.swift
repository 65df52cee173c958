import Glibc
import Relay

/// `tele top`: one process, each second: its status, how fast bytes go, how many wait, and how long they will take.
/// On a terminal the screen is drawn anew; else there is a line each second, for files and pipes.
struct TopCommand {
    private static let samplesMaximum = 120

    private let spelled: [String]
    private var samples: [(read: Double, taken: Double, backlog: Double)] = []
    private var last: (read: UInt64, taken: UInt64, uptime: Double)?

    init(_ arguments: [String]) throws(CommandError) {
        spelled = try GoFlags(GoFlag.ofOrder, listedBy: "tele top -help").normalised(arguments)
    }

    mutating func run() throws -> ExitStatus {
        if spelled.contains("--help") { return try StandardStreams.print(Help.top) }
        let client = ControlClient(path: try ControlFolder.only(spelled.value(of: "control")))
        let screen = Terminal.isOne(STDOUT_FILENO) ? FullScreen() : nil
        defer { screen?.leave() }
        while true {
            let status: Status
            do throws(CommandError) { status = try client.status() } catch {
                screen?.leave()
                throw error
            }
            note(status)
            if let screen {
                try screen.draw(lines(status, paint: Terminal.paint(STDOUT_FILENO), columns: Terminal.size(STDOUT_FILENO).columns))
            } else {
                try StandardStreams.print(line(status))
            }
            if screen?.waitForEnd(milliseconds: 1000)
                ?? {
                    usleep(1_000_000); return false
                }()
            {
                return .fine
            }
        }
    }

    private mutating func note(_ status: Status) {
        if let last, status.uptimeSeconds > last.uptime {
            let time = status.uptimeSeconds - last.uptime
            samples.append(
                (
                    Double(status.readBytes - min(last.read, status.readBytes)) / time,
                    Double(status.takenBytes - min(last.taken, status.takenBytes)) / time, Double(status.heldBytes)
                ))
            if samples.count > TopCommand.samplesMaximum { samples.removeFirst() }
        }
        last = (status.readBytes, status.takenBytes, status.uptimeSeconds)
    }

    /// How long what waits will take: what left it in the last ten seconds, against what is there.
    private func drain(_ status: Status) -> String {
        guard status.heldBytes > 0 else { return "nothing waits" }
        let recent = samples.suffix(10)
        guard recent.count > 1, let first = recent.first, let end = recent.last else { return "measuring" }
        let left = first.backlog + recent.dropFirst().reduce(0) { $0 + $1.read } - end.backlog
        let rate = left / Double(recent.count - 1)
        guard status.sessions.contains(where: { $0.carrier == .up }), rate > 1 else { return "waits for the network" }
        return "gone in \(HumanUnits.seconds(Double(status.heldBytes) / rate)) at \(HumanUnits.bytes(rate))/s"
    }

    private func line(_ status: Status) -> String {
        let now = samples.last ?? (0, 0, Double(status.heldBytes))
        let carriers = status.sessions.map(\.carrier.rawValue).joined(separator: ",")
        return "carrier=\(carriers.isEmpty ? "none" : carriers) connections=\(status.connections) read=\(Int(now.read)) "
            + "delivered=\(Int(now.taken)) waiting=\(status.heldBytes) oldest=\(status.sessions.map(\.backlogSeconds).max() ?? 0)"
    }

    private func lines(_ status: Status, paint: @escaping (String, Int) -> String, columns: Int) -> [String] {
        let table = StatusTable(status, paint: paint)
        let width = max(10, min(TopCommand.samplesMaximum, columns - 36))
        let now = samples.last ?? (0, 0, Double(status.heldBytes))
        func graph(_ name: String, _ value: String, _ values: [Double], _ colour: Int) -> String {
            let padding = String(repeating: " ", count: max(1, 32 - name.count - value.count))
            return "\(name)\(padding)\(value)  \(paint(HumanUnits.spark(Array(values.suffix(width))), colour))"
        }
        return [
            graph("from users", "\(HumanUnits.bytes(now.read))/s", samples.map(\.read), 36),
            graph("to users", "\(HumanUnits.bytes(now.taken))/s", samples.map(\.taken), 36),
            graph("waiting", HumanUnits.bytes(Double(status.heldBytes)), samples.map(\.backlog), 33),
            "\(drain(status))", "",
        ] + table.lines + ["", "q or Ctrl-C ends this"]
    }
}
