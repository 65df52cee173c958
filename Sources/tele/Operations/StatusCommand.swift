import Glibc
import Relay

/// `tele status`: what every running process of this user does, or one.
struct StatusCommand {
    private let spelled: [String]

    init(_ arguments: [String]) throws(CommandError) {
        spelled = try GoFlags(GoFlag.ofStatus, listedBy: "tele status -help").normalised(arguments)
    }

    func run() throws -> ExitStatus {
        if spelled.contains("--help") { return try StandardStreams.print(Help.status) }
        let given = spelled.value(of: "control")
        let isProbe = spelled.contains("--ready")
        var (shown, unready) = (0, String?.none)
        for path in given.map({ [$0] }) ?? ControlFolder.all() {
            let client = ControlClient(path: path)
            do {
                if isProbe {
                    unready = try client.unreadiness().map { "\(path): not ready (\($0))" } ?? unready
                } else if spelled.contains("--json") {
                    var text = try client.get("/status")
                    if text.last == 0x0a { text.removeLast() }
                    try StandardStreams.print(String(decoding: text, as: UTF8.self))
                } else {
                    let table = StatusTable(try client.status(), paint: Terminal.paint(STDOUT_FILENO))
                    try StandardStreams.print((shown > 0 ? ["", ""] : []).joined(separator: "\n") + table.lines.joined(separator: "\n"))
                }
                shown += 1
            } catch let fault as CommandError {
                // A socket file whose process was killed.
                if given != nil { throw fault }
            }
        }
        guard shown > 0 else {
            throw CommandError("no running tele process of this user was found", hint: "name its socket: -control=PATH")
        }
        if let unready { throw CommandError.unavailable(unready, hint: "it keeps trying by itself; \"tele status\" says more") }
        if isProbe { try StandardStreams.print("ready") }
        return .fine
    }
}
