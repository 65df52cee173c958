import Glibc
import Logging
import Loop
import Relay

/// `tele ssh-proxy`, the ProxyCommand of `tele ssh`: has a server there, and is the one connection to it. stdin and stdout are ssh's;
/// stderr is the user's terminal.
struct SshProxy {
    /// What `tele ssh` tells: where ssh would go, the port that was asked for, the host as written, and options for a connection of our own.
    static let variable = "TELE_SSH"
    /// The first carrier must be there within this: ssh itself was there a moment ago.
    private static let patienceSeconds = 10

    private let address: String
    private let port: UInt16
    private let wanted: UInt16
    private let host: String
    private let options: [String]

    init(_ arguments: [String]) throws {
        let told = getenv(SshProxy.variable).flatMap { SshWords.unpacked(String(cString: $0)) } ?? []
        guard arguments.isEmpty, told.count >= 4, let port = UInt16(told[1]), let wanted = UInt16(told[2]) else {
            throw CommandError.ssh("this command is for tele ssh alone", hint: "write tele ssh HOST")
        }
        address = told[0]
        self.port = port
        self.wanted = wanted
        host = told[3]
        options = Array(told.dropFirst(4))
    }

    func run() throws -> ExitStatus {
        let key = try SshKey(host: address)
        let there = try SshHost.serverPort(host, options, sshPort: port, wanted: wanted, key: key)
        let out = address.contains(":") ? "[\(address)]:\(there)" : "\(address):\(there)"
        var settings = try Settings.read(["--client", "--out=\(out)", "--key=\(key.path)", "--log-level=critical"])
        settings.configuration.exitsOnFailureAfterSeconds = SshProxy.patienceSeconds
        return try ConnectCommand(
            settings, name: "",
            explain: { fault in
                fault.kind == .denied || !fault.sentence.hasPrefix("cannot reach")
                    ? fault
                    : StartFault(
                        fault.kind, "\(fault.sentence), although ssh reaches \(visible(host))",
                        hint: "is a firewall blocking port \(there) there? -port=N selects an open one")
            }
        ).run()
    }
}
