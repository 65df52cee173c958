import ArgumentParser
import Glibc
import Logging
import Loop
import Relay

/// The whole command: from the words on the command line to an exit status.
enum Command {
    private static let readsState = "--reads-state="
    /// Arguments that ArgumentParser answers on its own: completion scripts, the description that the man
    /// page is made from, and the questions of an installed completion script.
    private static let parserOwned = [
        "--generate-completion-script", "--experimental-dump-help", "---completion",
    ]

    /// `words`: the program's own name first.
    static func run(_ words: [String]) -> ExitStatus {
        StandardStreams.prepare()
        // scp -S, sftp -S and their like take one word: a link of this name is "tele ssh".
        let isSsh = words.first.map { $0.hasSuffix("/tele-ssh") || $0 == "tele-ssh" } ?? false
        let arguments = (isSsh ? ["ssh"] : []) + words.dropFirst()
        do {
            if let first = arguments.first, parserOwned.contains(where: first.hasPrefix) {
                let answer = try Tele.answer(arguments)
                let shell = first == "--generate-completion-script" ? arguments.dropFirst().first ?? "" : ""
                return try StandardStreams.print(Completions.completed(answer, for: shell))
            }
            switch arguments.first {
            case nil: return try StandardStreams.print(Help.screen)
            case "help": return try StandardStreams.print(Help.topic(Array(arguments.dropFirst())))
            case "check": return try check(Array(arguments.dropFirst()))
            case "hosts": return try hosts(Array(arguments.dropFirst()))
            case "connect": return try connect(Array(arguments.dropFirst()))
            case "ssh": return try SshCommand(Array(arguments.dropFirst())).run()
            case "ssh-proxy": return try SshProxy(Array(arguments.dropFirst())).run()
            case "ssh-host": return try SshServer(Array(arguments.dropFirst())).run()
            case "status": return try StatusCommand(Array(arguments.dropFirst())).run()
            case "top":
                var top = try TopCommand(Array(arguments.dropFirst()))
                return try top.run()
            case "drain": return try order("drain", Help.drain, Array(arguments.dropFirst()))
            case "reconnect": return try order("reconnect", Help.reconnect, Array(arguments.dropFirst()))
            case "upgrade": return try upgrade("upgrade", Help.upgrade, Array(arguments.dropFirst()))
            case "restart": return try upgrade("restart", Help.restart, Array(arguments.dropFirst()))
            case "demo": return try demo(Array(arguments.dropFirst()))
            case "keygen": return try keygen(Array(arguments.dropFirst()))
            default: return try tele(arguments)
            }
        } catch let error as CommandError {
            ErrorMessage(error.sentence, hint: error.hint).print()
            return error.status
        } catch let fault as StartFault {
            ErrorMessage(fault.sentence, hint: fault.hint).print()
            return ExitStatus(fault.kind)
        } catch let fault as OutputFault {
            // A reader that has closed the pipe (`tele | head -1`) is not a failure.
            if fault.isReaderGone { return .fine }
            ErrorMessage("cannot write to stdout (\(fault.reason))", hint: "check where stdout leads").print()
            return .failure
        } catch {
            ErrorMessage("\(error)", hint: "run \"tele -help\" for the list of flags").print()
            return .failure
        }
    }

    private static func tele(_ arguments: [String]) throws -> ExitStatus {
        // The check of an upgrade: the running program asks whether this one can replace it.
        if let first = arguments.first, first.hasPrefix(readsState) {
            let settings = try Settings.read(try GoFlags(GoFlag.ofTele, listedBy: "tele -help").normalised(Array(arguments.dropFirst())))
            try rehearse(settings.configuration, for: String(first.dropFirst(readsState.count)))
            return .fine
        }
        let spelled = try GoFlags(GoFlag.ofTele, listedBy: "tele -help").normalised(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(Help.screen) }
        if spelled.contains("--version") { return try StandardStreams.print(Version.text) }
        var settings = try ownSettings(spelled)

        // Before any thread is started. From here on this is a worker, and its keeper is the process that people and service managers know.
        if settings.configuration.keeping == .always {
            do throws(SystemError) { try Keeper.start(hangSeconds: 10) } catch {
                ErrorMessage("cannot start a keeper (\(error)); connections end with this process", hint: "-keeper=never").print()
            }
            if let keeper = Keeper.ofThisProcess {
                // The file may have been read again since the keeper was started.
                if keeper.deaths > 0 { settings = try settingsAfterDeath(spelled, keeper) }
                if let file = settings.file { keeper.remember(configuration: file) }
            }
            settings.configuration.isKept = Keeper.ofThisProcess != nil
        }

        // From here on a signal is an order to the loop, also one that comes before it turns.
        try Signals.hold()
        try ParentWatch.follow()
        let log = try LogSink(format: settings.logFormat)
        var logger = Logger(label: "tele") { _ in LogLines(sink: log) }
        logger.logLevel = settings.logLevel

        let reconfigure: Reconfigure? =
            spelled.contains { $0.hasPrefix("--config=") }
            ? { () throws(StartFault) in
                do {
                    let read = try Settings.read(spelled)
                    if let file = read.file { Keeper.ofThisProcess?.remember(configuration: file) }
                    var fresh = read.configuration
                    fresh.control = fresh.control ?? settings.configuration.control
                    return fresh
                } catch { throw Command.startFault(error) }
            } : nil
        let flush = { log.flush(withinMilliseconds: 100) }
        let ending = Relay.run(settings.configuration, logger: logger, reconfigure: reconfigure, flush: flush) { address in
            guard settings.printsAddress else { return }
            do {
                try StandardStreams.print(address)
            } catch {
                logger.warning("cannot print the address on stdout", metadata: ["address": "\(address)"])
            }
        }
        defer { log.flush(withinMilliseconds: 1000) }
        switch ending {
        case .finished, .streamBroken: return .fine
        case .failed(let fault):
            log.write(ErrorMessage(fault.sentence, hint: fault.hint).text)
            return ExitStatus(fault.kind)
        }
    }

    /// Of a worker that follows another. A file that cannot be read just now, because somebody edits it, costs no connections: what it said
    /// before holds, as it does when it is read again (SIGHUP).
    private static func settingsAfterDeath(_ spelled: [String], _ keeper: Keeper) throws -> Settings {
        do {
            return try ownSettings(spelled)
        } catch let error as CommandError {
            guard let file = keeper.configuration else { throw error }
            var settings = try ownSettings(spelled, file: file)
            settings.configuration.unreadFile = error.sentence
            return settings
        }
    }

    private static func ownSettings(_ spelled: [String], file: [UInt8]? = nil) throws -> Settings {
        var settings = try Settings.read(spelled, file: file)
        if settings.wantsControl, settings.configuration.control == nil { settings.configuration.control = ControlFolder.ownSocket() }
        settings.configuration.program = Program.path
        return settings
    }

    /// One stream over stdin and stdout.
    private static func connect(_ arguments: [String]) throws -> ExitStatus {
        let (spelled, words) = try GoFlags(GoFlag.ofConnect, listedBy: "tele connect -help", words: 1).read(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(Help.connect) }
        let name = words.first ?? ""
        guard name.isEmpty || Mapping.isName(name) else {
            throw CommandError("a mapping cannot be called \(quoted(name))", hint: "write tele connect -out=HOST:PORT NAME")
        }
        let quiet = spelled.contains { $0.hasPrefix("--log-level=") } ? [] : ["--log-level=warning"]
        var settings = try Settings.read(["--client"] + spelled + quiet)
        settings.configuration.exitsOnFailureAfterSeconds = settings.configuration.exitsOnFailureAfterSeconds ?? Settings.failureSeconds
        return try ConnectCommand(settings, name: name).run()
    }

    /// Says one word to a running process.
    private static func order(_ word: String, _ help: String, _ arguments: [String]) throws -> ExitStatus {
        let flags = word == "drain" ? GoFlag.ofDrain : GoFlag.ofOrder
        let spelled = try GoFlags(flags, listedBy: "tele \(word) -help").normalised(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(help) }
        let socket = try ControlFolder.only(spelled.value(of: "control"))
        let said = try ControlClient(path: socket).post(spelled.contains("--now") ? "/stop" : "/\(word)")
        return word == "drain" ? try StandardStreams.print(said) : .fine
    }

    /// Replaces the program of a running process.
    private static func upgrade(_ word: String, _ help: String, _ arguments: [String]) throws -> ExitStatus {
        let flags = word == "upgrade" ? GoFlag.ofUpgrade : GoFlag.ofOrder
        let spelled = try GoFlags(flags, listedBy: "tele \(word) -help").normalised(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(help) }
        let program = spelled.value(of: "binary").map { $0.hasPrefix("/") ? $0 : "\(workingFolder)/\($0)" } ?? ""
        let socket = try ControlFolder.only(spelled.value(of: "control"))
        let client = ControlClient(
            path: socket, patienceSeconds: 15,
            refusal: ("not \(word == "upgrade" ? "upgraded" : "restarted")", "the running program continues, with all its connections"))
        return try StandardStreams.print(try client.post("/upgrade" + ControlClient.encoded(program)))
    }

    private static var workingFolder: String {
        guard let folder = getcwd(nil, 0) else { return "" }
        defer { free(folder) }
        return String(cString: folder)
    }

    private static func startFault(_ error: any Error) -> StartFault {
        switch error {
        case let fault as CommandError: StartFault(.configuration, fault.sentence, hint: fault.hint)
        default: StartFault(.configuration, "\(error)", hint: "check the file")
        }
    }

    /// Reads a configuration file, and the keys that it names, as a start would.
    private static func check(_ arguments: [String]) throws -> ExitStatus {
        let spelled = try GoFlags(GoFlag.ofCheck, listedBy: "tele check -help").normalised(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(Help.check) }
        guard let path = spelled.last(where: { $0.hasPrefix("--config=") })?.dropFirst(9) else {
            throw CommandError("-config is missing, the file to check", hint: "write tele check -config=FILE")
        }
        let configuration = try Settings.read(spelled).configuration
        let notes: [String]
        do throws(StartFault) { notes = try verify(configuration) } catch {
            ErrorMessage("\(path): \(error.sentence)", hint: error.hint).print()
            return .configuration
        }
        let role = configuration.role == .client ? "client of" : "server at"
        func line(_ mapping: Mapping, _ how: String) -> String { "  \(mapping.name.isEmpty ? "-" : mapping.name)  \(mapping.address)\(how)" }
        let lines =
            configuration.mappings.map { line($0, $0.kind == .fixed ? "" : "  \($0.kind.rawValue)") }
            + configuration.reverseMappings.map { line($0, "  reverse") }
        return try StandardStreams.print(
            (["\(path) is fine: \(role) \(configuration.servers.map { "\($0)" }.joined(separator: ", "))"] + lines + notes.map { "note: \($0)" })
                .joined(separator: "\n"))
    }

    /// The lines of /etc/hosts for mappings that have names of their own.
    private static func hosts(_ arguments: [String]) throws -> ExitStatus {
        let spelled = try GoFlags(GoFlag.ofHosts, listedBy: "tele hosts -help").normalised(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(Help.hosts) }
        guard let flag = spelled.first(where: { $0.hasPrefix("--config=") }) else {
            throw CommandError("-config is missing, the client's file", hint: "write tele hosts -config=FILE")
        }
        let mappings = try Settings.read([flag, "--client"]).configuration.mappings
        var names: [(name: String, address: String)] = []
        for mapping in mappings {
            guard let name = mapping.dialledName, !names.contains(where: { $0.name == name }) else { continue }
            names.append((name, mapping.address.host))
        }
        guard !names.isEmpty else {
            throw CommandError.configuration("\(flag.dropFirst(9)) has no mapping with names", hint: "\"tele help hosts\" shows one")
        }
        guard spelled.contains("--check") else {
            return try StandardStreams.print(names.map { "\($0.address)  \($0.name)" }.joined(separator: "\n"))
        }
        var wrong: [String] = []
        for (name, address) in names {
            let expected = HostPort(host: address, port: 1)
            switch Resolver.lookUp(HostPort(host: name, port: 1), passive: false) {
            case .success(let found) where found == [Resolver.number(expected)]: continue
            case .success(let found):
                wrong.append("\(name) leads to \(found.map { "\($0)".dropLast(2) }.joined(separator: ", ")), not to \(address)")
            case .failure(let failure): wrong.append("\(name) leads nowhere (\(failure.description)), not to \(address)")
            }
        }
        guard wrong.isEmpty else {
            _ = try StandardStreams.print((wrong + ["\"tele hosts \(flag.dropFirst())\" prints the lines for /etc/hosts"]).joined(separator: "\n"))
            return .failure
        }
        return try StandardStreams.print("all \(names.count) names lead to tele")
    }

    private static func keygen(_ arguments: [String]) throws -> ExitStatus {
        let spelled = try GoFlags(GoFlag.ofKeygen, listedBy: "tele keygen -help").normalised(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(Help.keygen) }
        return try Keygen(KeygenArguments.parsed(spelled)).run()
    }

    private static func demo(_ arguments: [String]) throws -> ExitStatus {
        let spelled = try GoFlags(GoFlag.ofDemo, listedBy: "tele demo -help").normalised(arguments)
        if spelled.contains("--help") { return try StandardStreams.print(Help.demo) }
        var demo = Demo(try DemoSettings(DemoArguments.parsed(spelled)))
        return demo.run()
    }
}
