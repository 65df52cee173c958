import Glibc
import Logging
import Loop
import Proxy

/// `tele ssh-proxy ADDRESS PORT`, the ProxyCommand of `tele ssh`: has a server there, and is the one connection to it. ADDRESS is where
/// ssh would go. stdin and stdout are ssh's; stderr is the user's terminal.
struct SshProxy {
    /// What `tele ssh` tells: the port that was asked for, the host as written, and options for a connection of our own.
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
        guard arguments.count == 2, let port = UInt16(arguments[1]), told.count >= 2, let wanted = UInt16(told[0]) else {
            throw SshCommand.Trouble("this command is for tele ssh alone", hint: "write tele ssh HOST")
        }
        address = arguments[0]
        self.port = port
        self.wanted = wanted
        host = told[1]
        options = Array(told.dropFirst(2))
    }

    func run() throws -> ExitStatus {
        let key = try SshKey(host: address)
        let there = try SshHost.serverPort(host, options, sshPort: port, wanted: wanted, key: key)
        let out = address.contains(":") ? "[\(address)]:\(there)" : "\(address):\(there)"
        var settings = try Settings.read(["--client", "--out=\(out)", "--key=\(key.path)", "--log-level=critical"])
        settings.configuration.exitsOnFailureAfterSeconds = SshProxy.patienceSeconds
        return try ConnectCommand(settings, name: "", explain: { fault in
            fault.kind == .denied ? fault : StartFault(
                fault.kind, "\(fault.sentence), though ssh reaches \(visible(host))",
                hint: "does a firewall close port \(there) there? -port=N takes one that it leaves open")
        }).run()
    }
}
