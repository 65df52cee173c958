import Glibc
import Logging
import Loop
import Relay

/// What the command line asks for, read and checked.
struct Settings {
    var configuration: Configuration
    var logFormat: LogFormat
    var logLevel: Logger.Level
    /// `tele status` and its like may talk to the process.
    var wantsControl: Bool
    /// The listening port was left to the kernel, so the caller must be told.
    var printsAddress: Bool
    /// What the configuration file says. Nil: there is none.
    var file: [UInt8]?

    static let logLevelNames = Logger.Level.allCases.map(\.rawValue)

    /// `mappings`, `reverse`: of a configuration file, besides `-in` and `-reverse`.
    init(
        _ arguments: Tele, mappings: [Mapping] = [], reverse: [Mapping] = [], clients: [String: ConfigurationFile.ClientTable] = [:],
        path: String = ""
    ) throws(CommandError) {
        let role = try Settings.role(arguments)
        var mappings = mappings
        var reverse = reverse
        if let text = arguments.reverse {
            let address = role == .client ? try Settings.remote(text, "reverse") : try Settings.address(text, "reverse")
            guard address.port != 0 || address.path != nil else {
                throw CommandError(
                    "-reverse=\(visible(text)) has port 0", hint: "write the port that users of the server connect to, for example -reverse=:8080")
            }
            reverse.insert(Mapping(address: address), at: 0)
        }
        let output: HostPort
        var others: [HostPort] = []
        switch role {
        case .client:
            guard let server = arguments.output else {
                throw CommandError(
                    "-out is missing, the address of the tele server",
                    hint: "write -out=HOST:PORT, the same as -out of the tele server")
            }
            let servers = try Settings.servers(server)
            output = servers[0]
            others = Array(servers.dropFirst())
            if arguments.input != nil || mappings.isEmpty && reverse.isEmpty {
                // Beside the user's client: a default port listens on localhost only.
                let input = try Settings.address(arguments.input ?? "127.0.0.1:0", "in")
                mappings.insert(Mapping(address: input, tellsAddress: arguments.proxyProtocol), at: 0)
                mappings[0].kind = try Settings.choice(arguments.kind, "kind", among: Mapping.Kind.self) ?? .fixed
                mappings[0].passwordFile = arguments.passwords
                guard arguments.passwords == nil || mappings[0].takesPasswords else {
                    throw CommandError("-passwords needs -kind=socks5 or -kind=http-connect", hint: "others do not ask for a password")
                }
            } else if arguments.kind != nil {
                throw CommandError("-kind is about -in, which is missing", hint: "write kind = \"socks5\" in the mapping's table")
            } else if arguments.passwords != nil {
                throw CommandError("-passwords is about -in, which is missing", hint: "write passwords = \"FILE\" in the mapping's table")
            }
        case .server:
            guard
                arguments.input != nil || !mappings.isEmpty || !reverse.isEmpty || arguments.destinations != nil
                    || clients.values.contains(where: { $0.destinations != nil })
            else {
                throw CommandError(
                    "-in is missing, the address of your server",
                    hint: "write -in=HOST:PORT, for example -in=:22 for sshd on this machine")
            }
            guard !arguments.proxyProtocol || !reverse.isEmpty else {
                throw CommandError(
                    "-proxy-protocol is a flag of the side where users connect, here the client",
                    hint: "leave it out, or use it with -client")
            }
            if arguments.proxyProtocol, arguments.reverse != nil { reverse[0].tellsAddress = true }
            // Every interface: the tele client comes from elsewhere.
            let text = arguments.output ?? ":0"
            guard !text.contains(",") || text.hasPrefix("unix:") else {
                throw CommandError("-out=\(visible(text)) is a list, and a server listens on one address", hint: "only -out of a client is a list of servers")
            }
            output = try Settings.address(text, "out")
            if let input = arguments.input { mappings.insert(Mapping(address: try Settings.remote(input, "in")), at: 0) }
        }
        configuration = Configuration(role: role, mappings: mappings, output: output)
        configuration.otherServers = others
        configuration.reverseMappings = reverse
        let listening = role == .client ? mappings.first?.address : output
        printsAddress = listening.map { $0.port == 0 && $0.path == nil } ?? false
        wantsControl = arguments.control != "none"
        logFormat = try Settings.choice(arguments.logFormat, "log-format", among: LogFormat.self) ?? .text
        logLevel = try Settings.choice(arguments.logLevel, "log-level", among: Logger.Level.self) ?? .info
        try readLimits(arguments)
        try readSecurity(arguments)
        try readClients(clients, path)
        try readAccess(arguments)
        try readRefusal(arguments)
        try readDestinations(arguments)
        try readProxy(arguments)
        if let metrics = arguments.metrics { configuration.metrics = try Settings.address(metrics, "metrics") }
        if let control = arguments.control, control != "none" {
            guard control.hasPrefix("/"), control.utf8.count <= Address.pathMaximum else {
                throw CommandError(
                    "-control=\(visible(control)) is no absolute path of at most \(Address.pathMaximum) bytes",
                    hint: "write -control=/run/tele/a.sock, or -control=none")
            }
            configuration.control = control
            configuration.requiresControl = true
        }
        if arguments.exitOnFailure {
            guard role == .client else {
                throw CommandError("-exit-on-failure is a flag of the client", hint: "leave it out, or use it with -client")
            }
            configuration.exitsOnFailureAfterSeconds = Settings.failureSeconds
        }
        configuration.version = Version.number
        try checkListeners()
    }

    /// Of mappings that do not say otherwise.
    private mutating func readRefusal(_ arguments: Tele) throws(CommandError) {
        let usual = try Settings.seconds(arguments.refuseAfter, "refuse-after", 0, 31 * 86400, "0s to 31d")
        guard usual == nil || configuration.role == .client || !configuration.reverseMappings.isEmpty else {
            throw CommandError("-refuse-after is a flag of the side where users connect, here the client", hint: "leave it out, or use it with -client")
        }
        changeListened { if $0.refuseAfterSeconds == nil { $0.refuseAfterSeconds = usual } }
    }

    /// Changes each mapping whose users connect to this process.
    private mutating func changeListened(_ body: (inout Mapping) -> Void) {
        if configuration.role == .client {
            for index in configuration.mappings.indices { body(&configuration.mappings[index]) }
        } else {
            for index in configuration.reverseMappings.indices { body(&configuration.reverseMappings[index]) }
        }
    }

    private mutating func readDestinations(_ arguments: Tele) throws(CommandError) {
        guard configuration.role == .server else {
            guard arguments.destinations == nil else {
                throw CommandError("-destinations is a flag of the server, which dials them", hint: "leave it out, or use it with -server")
            }
            return
        }
        for (flag, value) in [("kind", arguments.kind), ("passwords", arguments.passwords)] where value != nil {
            throw CommandError("-\(flag) is a flag of the client, where users connect", hint: "leave it out, or use it with -client")
        }
        guard let list = arguments.destinations else { return }
        for text in list.split(separator: ",", omittingEmptySubsequences: true).map({ $0.filter { $0 != " " } }) where !text.isEmpty {
            guard configuration.allowDestination(text) else {
                throw CommandError("-destinations has \(quoted(text)), which is not HOST:PORT", hint: Settings.destinationHint)
            }
        }
        guard configuration.allowsDestinations else {
            throw CommandError("-destinations lists nothing", hint: "write HOST:PORT, or leave it out to allow no destination")
        }
    }

    private static let destinationHint =
        "write a name (* stands for any characters but a dot), an address or a network, and a port, a range or *: \"*.example.com:443\", \"10.2.0.0/16:8000-8100\""

    /// What the file says of each client.
    private mutating func readClients(_ clients: [String: ConfigurationFile.ClientTable], _ path: String) throws(CommandError) {
        guard let first = clients.values.map(\.line).min() else { return }
        guard configuration.security != .none else {
            throw CommandError.configuration(
                "\(path):\(first): clients have names only with keys or certificates", hint: "set key, or cert, cert-key and ca, or leave [server.clients] out")
        }
        for (name, client) in clients {
            configuration.limit(
                client: name, toMappings: client.mappings.map { Set($0.map(\.name)) }, toListeners: client.listeners.map { Set($0.map(\.name)) },
                toStreams: client.streams, hasDestinations: client.destinations != nil)
            for (rule, line) in client.destinations ?? [] where !configuration.allowDestination(rule, client: name) {
                throw CommandError.configuration("\(path):\(line): \(quoted(rule)) is not HOST:PORT", hint: Settings.destinationHint)
            }
        }
    }

    /// `refuse-after` of one mapping: a duration or never. Nil: neither.
    static func refusal(_ text: String) -> Int? {
        text == "never" ? .max : try? seconds(text, "refuse-after", 0, 31 * 86400, "0s to 31d")
    }

    private mutating func readProxy(_ arguments: Tele) throws(CommandError) {
        guard let text = arguments.proxy else {
            guard arguments.proxyAuth == nil else { throw CommandError("-proxy-auth needs -proxy", hint: "write -proxy=http://HOST:PORT too, or leave it out") }
            return
        }
        guard configuration.role == .client else {
            throw CommandError("-proxy is a flag of the client, which dials the server", hint: "leave it out, or use it with -client")
        }
        for server in configuration.servers {
            guard server.path == nil else {
                throw CommandError("-proxy cannot reach \(server), a socket on this host", hint: "leave -proxy out")
            }
            guard server.host.utf8.count <= 253, !server.host.contains("%") else {
                throw CommandError("-proxy cannot reach \(server), an address of a link of this host", hint: "leave -proxy out")
            }
        }
        if case .named = configuration.paths {
            throw CommandError("-paths and -proxy are both given", hint: "-paths chooses how the server is reached; leave it out to go through the proxy")
        }
        configuration.proxy = try Settings.proxy(text, arguments.proxyAuth)
    }

    private static let proxyExample = "write -proxy=http://HOST:PORT or -proxy=socks5://HOST:PORT"

    /// `SCHEME://[USER@]HOST:PORT`, as curl(1) writes it. A password would be in the list of processes.
    private static func proxy(_ text: String, _ file: String?) throws(CommandError) -> Proxy {
        let kinds: [String: Proxy.Kind] = ["http": .http, "socks5": .socks5, "socks5h": .socks5]
        let scheme = text.prefix { $0 != ":" }
        guard let kind = kinds[scheme.lowercased()], text.dropFirst(scheme.count).hasPrefix("://") else {
            throw CommandError("-proxy=\(visible(text)) is not a proxy's URL", hint: proxyExample)
        }
        var rest = text.dropFirst(scheme.count + 3)
        if rest.hasSuffix("/") { rest = rest.dropLast() }
        var user: String?
        if let at = rest.lastIndex(of: "@") {
            let name = rest[..<at]
            guard !name.contains(":") else {
                throw CommandError(
                    "-proxy contains a password, which everybody on this host could see", hint: "put USER:PASSWORD into a file: -proxy-auth=FILE")
            }
            guard file != nil else {
                throw CommandError("-proxy names a user, whose password is missing", hint: "put USER:PASSWORD into a file: -proxy-auth=FILE")
            }
            user = String(name)
            rest = rest[rest.index(after: at)...]
        }
        let address: HostPort
        do throws(HostPort.Malformed) { address = try HostPort(parsing: String(rest)) } catch {
            throw CommandError("-proxy=\(visible(text)) \(error.reason)", hint: proxyExample)
        }
        guard address.path == nil, address.port != 0, !address.host.isEmpty else {
            throw CommandError("-proxy=\(visible(text)) has no host and port to dial", hint: proxyExample)
        }
        return Proxy(kind: kind, address: address, user: user, file: file)
    }

    /// Who may connect to Unix listeners, where their own table does not say.
    private mutating func readAccess(_ arguments: Tele) throws(CommandError) {
        var access = SocketAccess()
        if let text = arguments.socketMode {
            guard let mode = Settings.mode(text) else {
                throw CommandError("-socket-mode=\(visible(text)) is not a file mode", hint: "write -socket-mode=0660 for user and group, 0666 for everyone")
            }
            access.mode = mode
        }
        if let group = arguments.socketGroup {
            guard SocketAccess.number(of: group) != nil else {
                throw CommandError("-socket-group=\(visible(group)) is not a group on this host", hint: "use a name from /etc/group, or a group ID")
            }
            access.group = group
        }
        configuration.outputAccess = access
        changeListened {
            if $0.address.path != nil { $0.access = SocketAccess(mode: $0.access.mode ?? access.mode, group: $0.access.group ?? access.group) }
        }
    }

    /// `660` or `0660`: bits of chmod(2). Nil: it is none.
    static func mode(_ text: String) -> UInt32? {
        guard (3...4).contains(text.utf8.count), let mode = UInt32(text, radix: 8), mode <= 0o777 else { return nil }
        return mode
    }

    /// Two listeners at one place: the second would not start, or take what the first should get.
    private func checkListeners() throws(CommandError) {
        let isClient = configuration.role == .client
        var all =
            isClient
            ? configuration.mappings.map { ($0.name.isEmpty ? "-in" : "the mapping \($0.name)", $0.address) }
            : configuration.reverseMappings.map { ($0.name.isEmpty ? "-reverse" : "the listener \($0.name)", $0.address) } + [("-out", configuration.output)]
        if let metrics = configuration.metrics { all.append(("-metrics", metrics)) }
        var byPort: [UInt16: [(String, HostPort)]] = [:]
        for (name, address) in all where address.port != 0 {
            for (other, taken) in byPort[address.port] ?? [] where Settings.overlap(address, taken) {
                throw CommandError(
                    "\(other) and \(name) both listen at \(address)\(address == taken ? "" : " (\(taken))")",
                    hint: "give one of them another port or address")
            }
            byPort[address.port, default: []].append((name, address))
        }
        guard !isClient else { return try checkOriginsOfClient() }
        for mapping in configuration.mappings where mapping.address.port != 0 && mapping.address.port == configuration.output.port {
            let host = Settings.dialled(mapping.address)
            guard Settings.overlap(HostPort(host: host, port: mapping.address.port), configuration.output), Settings.isLoopback(host) else { continue }
            throw CommandError(
                "\(mapping.name.isEmpty ? "-in" : "the origin \(mapping.name)") is \(mapping.address), where this tele server itself listens",
                hint: "-in is your server's address, -out is tele's own")
        }
    }

    private func checkOriginsOfClient() throws(CommandError) {
        let origins = configuration.reverseMappings
        guard origins.count <= Configuration.clientOriginsMaximum else {
            throw CommandError(
                "a client has at most \(Configuration.clientOriginsMaximum) origins, and this one \(origins.count)", hint: "start several clients")
        }
        // The connection would come back to the client, and go round for ever.
        for origin in origins {
            for mapping in configuration.mappings where mapping.address.port != 0 && mapping.address.port == origin.address.port {
                let host = Settings.dialled(origin.address)
                guard Settings.overlap(HostPort(host: host, port: origin.address.port), mapping.address), Settings.isLoopback(host) else { continue }
                throw CommandError(
                    "\(origin.name.isEmpty ? "-reverse" : "the origin \(origin.name)") is \(origin.address), where this tele client itself listens",
                    hint: "on a client, -reverse is the address of a server beside it")
            }
        }
    }

    private static func dialled(_ address: HostPort) -> String { address.host.isEmpty ? "localhost" : address.host.lowercased() }
    private static func isLoopback(_ host: String) -> Bool { host == "localhost" || host == "::1" || host.hasPrefix("127.") }

    /// Whether two addresses of one port are, or contain, the same. Names are compared as they are written.
    private static func overlap(_ one: HostPort, _ other: HostPort) -> Bool {
        let (one, other) = (one.host.lowercased(), other.host.lowercased())
        let everywhere: Set = ["", "::"]
        if one == other || everywhere.contains(one) || everywhere.contains(other) { return true }
        let (four, six) = (["127.0.0.1", "0.0.0.0"], ["::1"])
        if one == "localhost" { return (four + six).contains(other) }
        if other == "localhost" { return (four + six).contains(one) }
        return one == "0.0.0.0" && !other.contains(":") || other == "0.0.0.0" && !one.contains(":")
    }

    /// A first carrier that does not come within this is a failure, for those who want to know.
    static let failureSeconds = 10

    private mutating func readSecurity(_ arguments: Tele) throws(CommandError) {
        let files = [arguments.certificate, arguments.certificateKey, arguments.authority]
        let required = getenv("TELE_REQUIRE_KEY").map { String(cString: $0) } ?? ""
        configuration.requiresSecurity = arguments.requireKey || !["", "0"].contains(required)
        if let key = arguments.key {
            guard files.allSatisfy({ $0 == nil }), arguments.allow == nil else {
                throw CommandError("-key and certificates are both given", hint: "take one of them: -key, or -cert, -cert-key and -ca")
            }
            configuration.security = .keys(file: key)
        } else if files.contains(where: { $0 != nil }) || arguments.allow != nil {
            guard let certificate = arguments.certificate, let key = arguments.certificateKey,
                let authority = arguments.authority
            else {
                throw CommandError("-cert, -cert-key and -ca belong together", hint: "give all three, on both sides")
            }
            let names = (arguments.allow ?? "").split(separator: ",").map { $0.trimmingPrefix { $0 == " " } }
                .map { String($0.reversed().drop { $0 == " " }.reversed()) }.filter { !$0.isEmpty }
            guard arguments.allow == nil || !names.isEmpty else {
                throw CommandError(
                    "-allow=\(visible(arguments.allow ?? "")) lists no names", hint: "write -allow=NAME,NAME, or omit -allow to accept every name")
            }
            configuration.security = .certificates(chain: certificate, key: key, authority: authority, allowed: names)
        }
    }

    private mutating func readLimits(_ arguments: Tele) throws(CommandError) {
        if let driver = try Settings.choice(arguments.io, "io", among: Loop.Driver.self) {
            configuration.driver = driver
        }
        if let splicing = try Settings.choice(arguments.splice, "splice", among: Configuration.Splicing.self) {
            configuration.splicing = splicing
        }
        if let keeping = try Settings.choice(arguments.keeper, "keeper", among: Configuration.Keeping.self) { configuration.keeping = keeping }
        if let text = arguments.threads {
            let range = "auto, or 1 to \(Configuration.threadsMaximum)"
            configuration.threads = try text == "auto" ? min(8, Cores.count) : Settings.count(text, "threads", 1, Configuration.threadsMaximum, range) ?? 1
            guard configuration.threads == 1 || configuration.keeping == .never else {
                throw CommandError("-keeper=always works with one thread only", hint: "leave out -threads, or -keeper")
            }
        }
        if let bytes = try Settings.size(arguments.buffer, "buffer", 1 << 20, 16 << 30, "1MiB to 16GiB") {
            configuration.bufferByteCount = bytes
        }
        if let limit = Memory.limit {
            // Half: the kernel's socket buffers, and this process's own few MiB, count too.
            configuration.memoryByteCount = min(configuration.memoryByteCount, max(1 << 20, limit / 2 & ~0xf_ffff))
            if arguments.buffer == nil { configuration.bufferByteCount = min(configuration.bufferByteCount, configuration.memoryByteCount) }
        }
        if let bytes = try Settings.size(arguments.memory, "memory", 1 << 20, 640 << 30, "1MiB to 640GiB") {
            guard bytes >= configuration.bufferByteCount else {
                throw CommandError(
                    "-memory is less than -buffer, so one session could not fill its buffer",
                    hint: "raise -memory or lower -buffer")
            }
            configuration.memoryByteCount = bytes
        }
        configuration.memoryByteCount = max(configuration.memoryByteCount, configuration.bufferByteCount)
        if let seconds = try Settings.seconds(arguments.hold, "hold", 1, 31 * 86400, "1s to 31d") {
            guard configuration.role == .server else {
                throw CommandError("-hold is a flag of the server, which keeps the sessions", hint: "leave it out, or use it with -server")
            }
            configuration.holdSeconds = seconds
        }
        if let text = arguments.carriers {
            guard configuration.role == .client else {
                throw CommandError("-carriers is a flag of the client, which dials them", hint: "leave it out, or use it with -client")
            }
            let range = "auto, or 1 to \(Configuration.carriersMaximum)"
            configuration.carriers = text == "auto" ? nil : try Settings.count(text, "carriers", 1, Configuration.carriersMaximum, range)
        }
        if let text = arguments.paths {
            guard configuration.role == .client else {
                throw CommandError("-paths is a flag of the client, which dials the server", hint: "leave it out, or use it with -client")
            }
            configuration.paths = try Settings.paths(text)
        }
        if let seconds = try Settings.seconds(arguments.failover, "failover", 0, 86400, "0s to 1d") {
            guard configuration.role == .client else {
                throw CommandError("-failover is a flag of the client, which has the servers", hint: "leave it out, or use it with -client")
            }
            configuration.failoverSeconds = seconds
        }
        if let seconds = try Settings.seconds(arguments.drain, "drain", 0, 86400, "0s to 1d") {
            configuration.drainSeconds = seconds
        }
        if let seconds = try Settings.seconds(arguments.idleExit, "idle-exit", 1, 31 * 86400, "1s to 31d") {
            guard configuration.role == .server else {
                throw CommandError("-idle-exit is a flag of the server", hint: "leave it out, or use it with -server")
            }
            configuration.idleExitSeconds = seconds
        }
        if let count = try Settings.count(arguments.maxStreams, "max-streams", 1, 1_000_000, "1 to 1000000") {
            configuration.maximumStreams = count
        }
        if let count = try Settings.count(arguments.maxSessions, "max-sessions", 1, 100_000, "1 to 100000") {
            guard configuration.role == .server else {
                throw CommandError(
                    "-max-sessions is a flag of the server; a client has one session",
                    hint: "leave it out, or use it with -server")
            }
            configuration.maximumSessions = count
        }
    }

    private static func role(_ arguments: Tele) throws(CommandError) -> Configuration.Role {
        switch (arguments.client, arguments.server) {
        case (true, false): return .client
        case (false, true): return .server
        case (true, true):
            throw CommandError(
                "-client and -server are both given", hint: "one process is one of them; start two")
        case (false, false):
            throw CommandError(
                "neither -client nor -server is given",
                hint: "-client runs beside your client, -server beside your server; \"tele\" shows both")
        }
    }
}

extension Settings {
    /// What the command line and the file that it names ask for together; a flag counts more than the file.
    /// Throws `CommandError` or `CommandError`.
    /// `file`: what the file said; nil: it is read now.
    static func read(_ spelled: [String], file bytes: [UInt8]? = nil) throws -> Settings {
        guard let path = spelled.last(where: { $0.hasPrefix("--config=") })?.dropFirst(9) else {
            return try Settings(Tele.parsed(spelled))
        }
        let roles = ["client", "server"].filter { spelled.contains("--\($0)") }
        let file = try ConfigurationFile(path: String(path), section: roles.first, bytes: bytes)
        let given = Set(spelled.map { $0.prefix { $0 != "=" } })
        let added = file.flags.map(\.spelled).filter { flag in !given.contains(flag.prefix { $0 != "=" }) }
        let role = roles.isEmpty ? ["--\(file.section)"] : []
        do throws(CommandError) {
            let parsed: Tele
            do { parsed = try Tele.parsed(spelled + role + added) } catch { throw error as? CommandError ?? CommandError("\(error)", hint: "") }
            var settings = try Settings(parsed, mappings: file.mappings, reverse: file.reverseMappings, clients: file.clients, path: file.path)
            settings.file = file.bytes
            return settings
        } catch {
            throw file.fault(error, besides: given) as any Error
        }
    }
}

// One reader for each kind of value. Absent is nil and leaves the default alone.
extension Settings {
    private static func address(_ text: String, _ name: String) throws(CommandError) -> HostPort {
        do { return try HostPort(parsing: text) } catch {
            let isPort = UInt16(text) != nil
            throw CommandError(
                "-\(name)=\(visible(text)) \(error.reason)",
                hint: isPort ? "did you mean -\(name)=:\(text)?" : "write HOST:PORT, :PORT, [IPV6]:PORT or unix:/PATH, for example -\(name)=localhost:22")
        }
    }

    /// Interfaces may come and go, so only their names are judged (IFNAMSIZ of net/if.h).
    private static func paths(_ text: String) throws(CommandError) -> Configuration.Paths {
        if text == "all" { return .all }
        if text == "usual" { return .usual }
        let names = text.split(separator: ",", omittingEmptySubsequences: false).map { String($0.filter { $0 != " " }) }
        let example = "-paths is all, usual (as the routes say), or names of interfaces: eth0,wlan0"
        if let wrong = names.first(where: { !(1...15).contains($0.utf8.count) || $0.contains("/") || $0.contains(":") }) {
            throw CommandError("-paths=\(visible(text)): \(quoted(wrong)) is no name of an interface", hint: example)
        }
        if let twice = names.first(where: { name in names.count { $0 == name } > 1 }) {
            throw CommandError("-paths=\(visible(text)) names \(visible(twice)) twice", hint: example)
        }
        return .named(names)
    }

    /// `-out` of a client: one address, or several, the preferred one first.
    private static func servers(_ text: String) throws(CommandError) -> [HostPort] {
        // A path may have a comma.
        guard !text.hasPrefix("unix:") else { return [try remote(text, "out")] }
        var servers: [HostPort] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let server = try remote(part.filter { $0 != " " }, "out")
            guard !servers.contains(server) else {
                throw CommandError("-out=\(visible(text)) names \(server) twice", hint: "each server once, the preferred one first")
            }
            servers.append(server)
        }
        guard servers.count <= Configuration.serversMaximum else {
            throw CommandError("-out names \(servers.count) servers", hint: "a client has at most \(Configuration.serversMaximum)")
        }
        return servers
    }

    /// An address to dial, which needs a real port.
    private static func remote(_ text: String, _ name: String) throws(CommandError) -> HostPort {
        let address = try address(text, name)
        guard address.port != 0 || address.path != nil else {
            throw CommandError(
                "-\(name)=\(visible(text)) has port 0, which cannot be dialled",
                hint: "write the port that is listened on there")
        }
        return address
    }

    /// One of the words of an enumeration.
    static func choice<Choice: RawRepresentable<String> & CaseIterable>(
        _ text: String?, _ name: String, among type: Choice.Type
    ) throws(CommandError) -> Choice? {
        guard let text else { return nil }
        if let choice = Choice(rawValue: text) { return choice }
        let names = type.allCases.map(\.rawValue)
        let list = names.dropLast().joined(separator: ", ") + " or " + (names.last ?? "")
        throw CommandError("-\(name) cannot be \(quoted(text))", hint: "-\(name) is \(list)")
    }

    private static func size(
        _ text: String?, _ name: String, _ least: Int, _ most: Int, _ range: String
    ) throws(CommandError) -> Int? {
        guard let text else { return nil }
        guard let bytes = Quantity.byteCount(text) else {
            throw CommandError(
                "-\(name) cannot be \(quoted(text)), which is not a size",
                hint: "write bytes or a unit, for example 65536, 512KiB, 64MiB or 1GB")
        }
        return try checked(bytes, text, name, least, most, range)
    }

    /// Part of a second counts as a whole one: the engine's clock for these is in seconds.
    private static func seconds(
        _ text: String?, _ name: String, _ least: Int, _ most: Int, _ range: String
    ) throws(CommandError) -> Int? {
        guard let text else { return nil }
        guard let milliseconds = Quantity.milliseconds(text) else {
            throw CommandError(
                "-\(name) cannot be \(quoted(text)), which is not a duration",
                hint: "write a number and a unit, for example 500ms, 10s, 5m, 24h or 7d")
        }
        let seconds = milliseconds / 1000 + (milliseconds % 1000 > 0 ? 1 : 0)
        return try checked(seconds, text, name, least, most, range)
    }

    static func count(
        _ text: String?, _ name: String, _ least: Int, _ most: Int, _ range: String
    ) throws(CommandError) -> Int? {
        guard let text else { return nil }
        guard let count = Quantity.count(text) else {
            throw CommandError(
                "-\(name) cannot be \(quoted(text)), which is not a whole number",
                hint: "-\(name) takes \(range)")
        }
        return try checked(count, text, name, least, most, range)
    }

    private static func checked(
        _ value: Int, _ text: String, _ name: String, _ least: Int, _ most: Int, _ range: String
    ) throws(CommandError) -> Int {
        guard value >= least, value <= most else {
            throw CommandError("-\(name)=\(visible(text)) is out of range", hint: "-\(name) takes \(range)")
        }
        return value
    }
}
