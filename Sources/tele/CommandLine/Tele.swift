import ArgumentParser
import Relay

/// The flags as ArgumentParser knows them. Values stay text here; `Settings` reads them, so that every
/// refusal is one sentence and one hint of ours.
struct Tele: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tele", abstract: "Keeps TCP connections alive through network outages.",
        version: Version.text,
        subcommands: [
            CheckArguments.self, ConnectArguments.self, DemoArguments.self, DrainArguments.self, HostsArguments.self, KeygenArguments.self,
            ReconnectArguments.self, RestartArguments.self, SshArguments.self, StatusArguments.self, TopArguments.self,
            UpgradeArguments.self,
        ], helpNames: [.long, .short, .goLong("help")])

    @Flag(name: .go("client"), help: "Run beside your client.") var client = false
    @Flag(name: .go("server"), help: "Run beside your server.") var server = false
    @Option(
        name: .go("in"),
        help: ArgumentHelp("Client: where users connect; a free port of localhost unless given. Server: your server.", valueName: "address"))
    var input: String?
    @Option(
        name: .go("out"),
        help: ArgumentHelp(
            "Client: where the tele server is, or several, the preferred one first. Server: where tele clients connect; a free port unless given.",
            valueName: "address"))
    var output: String?
    @Option(
        name: .go("reverse"),
        help: ArgumentHelp("The other way: Server: where its users connect. Client: where their connections go.", valueName: "address"))
    var reverse: String?
    @Option(
        name: .go("io"), help: "How tele talks to the kernel: auto (default), uring or epoll.", completion: .list(["auto", "uring", "epoll"]))
    var io: String?
    @Option(
        name: .go("splice"), help: "Zero-copy relay: auto (default), always or never.", completion: .list(["auto", "always", "never"]))
    var splice: String?
    @Option(
        name: .go("keeper"), help: "Connections outlive a crash of the process: always or never (default).", completion: .list(["always", "never"]))
    var keeper: String?
    @Option(
        name: .go("threads"),
        help: ArgumentHelp("Event loops, each on a thread of its own: 1; 1 to 64, or auto: one for each core, at most 8.", valueName: "count"))
    var threads: String?
    @Option(
        name: .go("buffer"), help: ArgumentHelp("Bytes held per session and direction: 64MiB; 1MiB to 16GiB.", valueName: "size"))
    var buffer: String?
    @Option(
        name: .go("memory"),
        help: ArgumentHelp(
            "Bytes held by all sessions together: 1GiB, at most half of what the machine or container has; at least -buffer, at most 640GiB.", valueName: "size"
        ))
    var memory: String?
    @Option(name: .go("hold"), help: ArgumentHelp("Server: how long a lost session is kept: 7d; 1s to 31d.", valueName: "duration"))
    var hold: String?
    @Option(
        name: .go("carriers"),
        help: ArgumentHelp("Client: sessions over which users are spread: auto (one, with more connections on lossy paths), or 1 to 8.", valueName: "count"))
    var carriers: String?
    @Option(
        name: .go("paths"),
        help: ArgumentHelp(
            "Client: the interfaces over which the server is reached; one carries, another stands by: all (default), usual (as the routes say), or names.",
            valueName: "interfaces"))
    var paths: String?
    @Option(
        name: .go("failover"),
        help: ArgumentHelp("Client: how long new connections wait for a server before they go to the next one: 10s; 0s to 1d.", valueName: "duration"))
    var failover: String?
    @Option(name: .go("max-streams"), help: ArgumentHelp("Streams in one session: 100000; 1 to 1000000.", valueName: "count"))
    var maxStreams: String?
    @Option(name: .go("max-sessions"), help: ArgumentHelp("Server: sessions: 1024; 1 to 100000.", valueName: "count"))
    var maxSessions: String?
    @Option(name: .go("drain"), help: ArgumentHelp("How long open streams may continue after SIGTERM: 10s; 0s to 1d.", valueName: "duration"))
    var drain: String?
    @Option(name: .go("idle-exit"), help: ArgumentHelp("Server: exit after this time without a session: never; 1s to 31d.", valueName: "duration"))
    var idleExit: String?
    @Option(name: .go("key"), help: "The file with the key, or on a server with the keys.", completion: .file())
    var key: String?
    @Option(name: .go("cert"), help: "This side's certificate chain, PEM.", completion: .file()) var certificate: String?
    @Option(name: .go("cert-key"), help: "Its private key, PEM.", completion: .file()) var certificateKey: String?
    @Option(name: .go("ca"), help: "The authorities that must have signed the other side's, PEM.", completion: .file()) var authority: String?
    @Option(name: .go("allow"), help: ArgumentHelp("With certificates: the names to admit; all unless given.", valueName: "names")) var allow: String?
    @Flag(name: .go("require-key"), help: "Refuse to run without a key.") var requireKey = false
    @Option(
        name: .go("kind"), help: "Client: who chooses where users of -in go: fixed (default), socks5, http-connect or transparent.",
        completion: .list(Mapping.Kind.allCases.map(\.rawValue)))
    var kind: String?
    @Option(
        name: .go("passwords"), help: "Client, with -kind: programs must give a USER:PASSWORD of this file.", completion: .file())
    var passwords: String?
    @Option(
        name: .go("destinations"),
        help: ArgumentHelp("Server: where the programs of clients may go beside the origins, HOST:PORT, with * and networks: nowhere.", valueName: "list"))
    var destinations: String?
    @Option(
        name: .go("refuse-after"),
        help: ArgumentHelp("Refuse new connections when there has been no carrier for this long: never; 0s to 31d.", valueName: "duration"))
    var refuseAfter: String?
    @Option(
        name: .go("proxy"),
        help: ArgumentHelp("Client: reach the server through a proxy, http://[user@]host:port or socks5://[user@]host:port.", valueName: "url"))
    var proxy: String?
    @Option(name: .go("proxy-auth"), help: "Client: a file with a line USER:PASSWORD for the proxy.", completion: .file()) var proxyAuth: String?
    @Option(name: .go("config"), help: "A file with settings and mappings.", completion: .file()) var config: String?
    @Flag(name: .go("exit-on-failure"), help: "Exit if the server cannot be reached at startup.") var exitOnFailure = false
    @Option(name: .go("metrics"), help: ArgumentHelp("Where Prometheus can scrape.", valueName: "address")) var metrics: String?
    @Option(name: .go("control"), help: "The socket for tele status; or none.", completion: .file()) var control: String?
    @Option(
        name: .go("socket-mode"), help: ArgumentHelp("Mode of unix: listeners, which says who can connect: from the umask unless given.", valueName: "mode"))
    var socketMode: String?
    @Option(
        name: .go("socket-group"), help: ArgumentHelp("The group of unix: listeners, by name or number: the process's own unless given.", valueName: "group"))
    var socketGroup: String?
    @Flag(name: .go("proxy-protocol"), help: "Tell the origin the user's address.") var proxyProtocol = false
    @Option(name: .go("log-format"), help: "Lines on stderr: text (default) or json.", completion: .list(["text", "json"]))
    var logFormat: String?
    @Option(
        name: .go("log-level"), help: "The lowest level to log: info; trace to critical.",
        completion: .list(Settings.logLevelNames))
    var logLevel: String?

    /// Flags that `GoFlags` has checked. What ArgumentParser still refuses is a difference between the two
    /// lists.
    static func parsed(_ normalised: [String]) throws -> Tele {
        do { return try parse(normalised) } catch {
            throw CommandError(message(for: error), hint: "run \"tele -help\" for the list of flags")
        }
    }

    /// The text of a completion script or of the description of the flags.
    static func answer(_ arguments: [String]) throws -> String {
        do {
            var command = try parseAsRoot(arguments)
            try command.run()
            return ""
        } catch {
            guard exitCode(for: error) == .success else {
                throw CommandError(message(for: error), hint: "bash, zsh and fish have completion scripts")
            }
            return message(for: error)
        }
    }
}

struct CheckArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Reads a configuration file and says what is wrong with it.",
        helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("config"), help: "The file.", completion: .file()) var config: String?
    @Flag(name: .go("client"), help: "Its client, when it has both.") var client = false
    @Flag(name: .go("server"), help: "Its server, when it has both.") var server = false
}

struct HostsArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "hosts", abstract: "The lines of /etc/hosts for a cluster's names.", helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("config"), help: "The file.", completion: .file()) var config: String?
    @Flag(name: .go("check"), help: "Say which names lead elsewhere.") var check = false
}

// Commands that `GoFlags` parses; here for completions and the man page.

struct ConnectArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "connect", abstract: "One connection over stdin and stdout, for ssh's ProxyCommand.",
        helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("out"), help: ArgumentHelp("Where the tele server is.", valueName: "address")) var output: String?
    @Option(name: .go("key"), help: "The file with the key.", completion: .file()) var key: String?
    @Option(name: .go("config"), help: "A client's configuration file.", completion: .file()) var config: String?
    @Argument(help: "The mapping.") var name: String?
}

struct SshArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ssh", abstract: "ssh through a tele server that it starts on the host.",
        helpNames: [.long, .goLong("help")])

    @Flag(name: .go("copy"), help: "Copy this program to the host first.") var copy = false
    @Option(name: .go("port"), help: "The port of the tele server there.") var port: String?
    @Argument(help: "As for ssh: options, the host, a command.") var words: [String] = []
}

struct StatusArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "What running tele processes do.", helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("control"), help: "The socket of one process.", completion: .file()) var control: String?
    @Flag(name: .go("json"), help: "For programs.") var json = false
    @Flag(name: .go("ready"), help: "Only whether new connections are served; exit status 69 if not.") var ready = false
}

struct TopArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "top", abstract: "The same, each second.", helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("control"), help: "The socket of one process.", completion: .file()) var control: String?
}

struct DrainArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Ends a process when what is open has ended.", helpNames: [.long, .short, .goLong("help")])

    @Flag(name: .go("now"), help: "Reset what is open, at once.") var now = false
    @Option(name: .go("control"), help: "The socket of one process.", completion: .file()) var control: String?
}

struct ReconnectArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reconnect", abstract: "Has a client dial a new carrier now.", helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("control"), help: "The socket of one process.", completion: .file()) var control: String?
}

struct RestartArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restart", abstract: "Restarts a running process, and keeps its connections.", helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("control"), help: "The socket of one process.", completion: .file()) var control: String?
}

struct UpgradeArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade", abstract: "Replaces the program of a running process, and keeps its connections.",
        helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("binary"), help: "The other version.", completion: .file()) var binary: String?
    @Option(name: .go("control"), help: "The socket of one process.", completion: .file()) var control: String?
}

struct DemoArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo", abstract: "Shows tele carrying real data through faults, on this machine alone.",
        helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("seconds"), help: ArgumentHelp("About how long it takes.", valueName: "count"))
    var seconds: String?
    @Option(
        name: .go("io"), help: "How to talk to the kernel.", completion: .list(["auto", "uring", "epoll"]))
    var io: String?

    @Option(name: .go("faults"), help: ArgumentHelp("What goes wrong, in turn.", valueName: "kinds"))
    var faults: String?
    @Option(name: .go("binary"), help: "The tele to show.", completion: .file())
    var binary: String?

    static func parsed(_ normalised: [String]) throws -> DemoArguments {
        do { return try parse(normalised) } catch {
            throw CommandError(message(for: error), hint: "run \"tele demo -help\" for the list of flags")
        }
    }
}

struct KeygenArguments: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "keygen", abstract: "Makes a key for -key.", helpNames: [.long, .short, .goLong("help")])

    @Option(name: .go("out"), help: "Where to write it; else stdout.", completion: .file()) var output: String?
    @Option(name: .go("name"), help: "Whose it is, for logs.") var name: String?

    static func parsed(_ normalised: [String]) throws -> KeygenArguments {
        do { return try parse(normalised) } catch {
            throw CommandError(message(for: error), hint: "run \"tele keygen -help\" for the list of flags")
        }
    }
}

extension NameSpecification {
    /// A flag with one dash, as Go's flag package has it, and with two.
    static func go(_ name: String) -> NameSpecification { [.goLong(name), .customLong(name)] }
}

extension NameSpecification.Element {
    static func goLong(_ name: String) -> Self { .customLong(name, withSingleDash: true) }
}
