import Chance
import Glibc
import Logging
import Loop
import Relay

/// One run: whole tele processes as they ship, their users and origins, and the machines and paths between them.
final class World {
    let plan: Plan
    let kernel: VirtualKernel
    private let calls: Calls
    private(set) var failure: String?
    var delivered = 0
    private(set) var losses = 0, kills = 0, iterations = 0, takeovers = 0, subflows = 0

    private(set) var servers: [VirtualProcess] = []
    private(set) var clients: [VirtualProcess] = []
    private(set) var users: [Talker] = []
    private var usersByNumber: [Int: Talker] = [:]
    private(set) var origins: [Talker] = []
    private var unopened: Int
    private(set) var openCount = 0
    /// When the last connection that is over ended.
    private var talkersOverAt: UInt64 = 0
    private(set) var isHealed = false
    private var healedAt: UInt64 = 0
    private var originListener: TCPSocket!
    /// The origin was away at some time: its connections may be refused.
    private var hasRefused = false
    /// Connections that were accepted by what is no tele server.
    private var strangers: [TCPSocket] = []
    /// Each carrier that was connected: the client's end, and what it led to.
    private(set) var carriers: [(client: TCPSocket, server: TCPSocket)] = []
    private let keyFile: String?
    private var liar: Liar?
    private var faultInjector: FaultInjector!
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)

    static let originHost = 1, firstServerHost = 2, clientHost = 10, strangerHost = 9
    static let serverName = "server.test"
    static let carrierPort: UInt16 = 7000, originPort: UInt16 = 22, userPort: UInt16 = 2222, askedPort: UInt16 = 1080
    /// Where users of the server reach the first client's origin; the others' are behind it.
    static let reversePort: UInt16 = 2300

    static let drainSeconds = 5

    /// After the heal, every connection ends within this much virtual time.
    static let settleMaximum = milliseconds(600_000)
    static let stepsMaximum = 5_000_000

    /// Nil: this build has no world for processes (CSystemWorld.h).
    init?(_ plan: Plan, keyFile: String) {
        self.plan = plan
        self.keyFile = plan.hasKey ? keyFile : nil
        kernel = VirtualKernel(seed: plan.seed)
        kernel.limits = plan.limits
        kernel.spoilsStates = plan.spoilsStates
        unopened = plan.streams
        guard let calls = Calls(kernel) else { return nil }
        self.calls = calls
        if plan.liar != nil { liar = Liar(plan, &kernel.chance) }
    }

    deinit { scratch.deallocate() }

    /// Behind a state that was changed anything may be wrong.
    func fail(_ sentence: @autoclosure () -> String) { if failure == nil, kernel.spoiledAt == nil { failure = sentence() } }

    // MARK: The run

    func run() {
        faultInjector = FaultInjector(self)
        kernel.network.standard = VirtualNetwork.Path(latency: plan.latency, jitter: plan.jitter, rate: plan.rate, lossOneIn: plan.lossOneIn)
        kernel.onConnected = { [unowned self] in carrierConnected($0, $1) }
        if plan.hasTwoPaths { kernel.hostsWithTwo = Set((0..<plan.clients).map { World.clientHost + $0 }) }
        for host in serverHosts + (0..<plan.clients).map({ World.clientHost + $0 }) {
            kernel.network[host, World.originHost] = VirtualNetwork.Path(latency: 100_000)
            kernel.network[World.originHost, host] = VirtualNetwork.Path(latency: 100_000)
        }
        listenAtOrigin()
        do {
            for (index, door) in plan.doors.enumerated() { try open(door, at: World.firstServerHost + index) }
            for index in 0..<plan.clients { clients.append(try startClient(index)) }
        } catch {
            return fail("cannot start: \(error)")
        }
        let start = kernel.time
        for number in 0..<plan.streams {
            kernel.at(start + UInt64(kernel.chance.below(Int(plan.opensWithin) + 1))) { [unowned self] in openUser(number) }
        }
        faultInjector.begin()
        kernel.at(start + max(plan.healsAt, plan.opensWithin)) { [unowned self] in heal() }
        if let endsWithin = plan.endsWithin { kernel.at(start + endsWithin) { [unowned self] in judgeEnds() } }
        faultInjector.tellStory()

        proceed { isHealed && unopened == 0 && openCount == 0 && !faultInjector.isDraining || isSpoiled }
        if kernel.spoiledAt != nil { return abandon() }
        let quiet = kernel.time + milliseconds(40_000)
        kernel.at(quiet) {}
        proceed { kernel.time >= quiet }
        if let misuse = kernel.misuse { fail(misuse) }
        if Trace.isOn { print("over at \((talkersOverAt - start) / 1_000_000) ms, overdraft \(processes.map(\.overdraftPeak))") }
        audit()
        subflows += loops.reduce(0) { $0 + ($1.relay?.subflowTotal ?? 0) }
        callCounts = [clients[0].callCount, servers[0].callCount]
        hasSpliced = (0..<2).allSatisfy { way in loops.contains { ($0.relay?.splicedByteCounts[way] ?? 0) > 0 } }
        stop()
        iterations += loops.reduce(0) { $0 + $1.iterations }
        for process in processes {
            takeovers += process.takeovers + process.crashes
            process.die()
        }
        kernel.end()
        // Also what the end itself did.
        if let misuse = kernel.misuse { fail(misuse) }
    }

    /// Long enough behind a state that was changed.
    private var isSpoiled: Bool { kernel.spoiledAt.map { kernel.time > $0 + milliseconds(5000) } ?? false }

    private func abandon() {
        for process in processes {
            takeovers += process.takeovers + process.crashes
            process.die()
        }
        kernel.end()
    }

    var processes: [VirtualProcess] { clients + servers }
    /// Of all processes; where each has one loop, the same.
    var loops: [VirtualProcess] { plan.threads == 1 ? processes : processes.flatMap(\.loops) }
    /// System calls of the first client, and of the first server.
    private(set) var callCounts = [0, 0]
    /// Bytes went through pipes, into carriers and out of them.
    private(set) var hasSpliced = false
    /// Hosts on which a tele server runs.
    var serverHosts: [Int] { plan.doors.indices.filter { plan.doors[$0] == .server }.map { World.firstServerHost + $0 } }

    /// Nothing goes wrong any more: what can progress must end.
    private func heal() {
        isHealed = true
        healedAt = kernel.time
        faultInjector.end()
        listenAtOrigin()
        // Pairs that wait for a reader that has stopped end by a reset.
        kernel.after(milliseconds(30_000)) { [unowned self] in abandonStopped() }
    }

    private func abandonStopped() {
        for talker in users + origins where !talker.isEnded && (talker.hasStopped || isLied(to: talker)) { talker.abandon() }
        // A client that was killed, or gave a session up, comes back for nothing: the server holds its session, and the origins of its users wait.
        let mayLose = plan.mayLose || isPoisoned
        for origin in origins where !origin.isEnded && (origin.other?.isEnded ?? mayLose) && mayLose { origin.abandon() }
        if plan.isReversible, mayLose {
            for user in users where !user.isEnded && user.socket.host == World.firstServerHost && user.other?.isEnded ?? true { user.abandon() }
        }
        if openCount > 0 { kernel.after(milliseconds(10_000)) { [unowned self] in abandonStopped() } }
    }

    /// Strangers who say something to a server, one after the other, and what each hears within a second.
    func probe(_ words: [[UInt8]]) -> [Simulation.Answer] {
        faultInjector = FaultInjector(self)
        do { try open(.server, at: World.firstServerHost) } catch { fail("cannot start: \(error)") }
        let answers = words.map(probe)
        for process in processes { process.die() }
        kernel.end()
        return answers
    }

    private func probe(_ words: [UInt8]) -> Simulation.Answer {
        let socket = TCPSocket(kernel, host: World.strangerHost)
        var answer = Simulation.Answer(), isSaid = false
        socket.program = { [unowned socket, scratch] in
            guard !answer.isClosed, socket.connectResult == 0 || isSaid else { return }
            if !isSaid { isSaid = socket.send([words[...]]) == words.count }
            let count = socket.receive(scratch.baseAddress, scratch.count)
            if count > 0 { answer.bytes += scratch[..<count] } else { answer.isClosed = count != -Int(EAGAIN) }
        }
        _ = socket.connect(to: VirtualKernel.Name(host: World.firstServerHost, port: World.carrierPort))
        let last = kernel.time + milliseconds(1000)
        kernel.at(last) {}
        proceed { kernel.time >= last }
        socket.reset()
        return answer
    }

    private func proceed(until isDone: () -> Bool) {
        while failure == nil, kernel.misuse == nil, !isDone() {
            guard kernel.step() else { return fail("nothing is left to happen, and \(unfinished)") }
            if kernel.steps > World.stepsMaximum { fail("no end after \(kernel.steps) steps, and \(unfinished)") }
            if isHealed, kernel.time > healedAt + World.settleMaximum { fail("no end long after the heal, and \(unfinished)") }
        }
    }

    private var unfinished: String {
        let open = (users + origins).filter { !$0.isEnded }
        let accounts = (servers + clients).flatMap(\.loops).prefix(4).compactMap { $0.relay?.accounts }.joined(separator: "; client: ")
        return "\(unopened) users did not come, \(open.count) are open\(faultInjector.isDraining ? ", a server drains" : ""), \(openCount) count: "
            + open.prefix(4).map(\.description).joined(separator: "; ") + "; server: \(accounts)"
    }

    /// What idle processes hold and should not: in the end everything is acknowledged (protocol 5.4, 5.5), and nothing is kept of streams that
    /// are gone (protocol 6.11).
    private func audit() {
        for (process, loop) in processes.flatMap({ process in process.loops.map { (process, $0) } }) {
            guard let relay = loop.relay, failure == nil else { continue }
            let place = servers.contains { $0 === process } ? "the server" : "the client"
            // The session of a client that was killed is held for it, with its connections to the origin; so is one that the client gave up,
            // because it had nothing to lose, when another server did not know it. A lie may leave streams that only one side knows.
            guard !plan.faults.contains(.killClient), !isPoisoned, !plan.isBelieved, servers.count == 1 || clients.contains(where: { $0 === process }) else {
                continue
            }
            if let leftover = relay.leftover { fail("\(place) is idle, and \(leftover)") }
            // Listeners, watches, a sink, and carriers and a spare one for each client; attempts to reach preferred servers that are not there.
            let most =
                12 * plan.threads + (plan.threads + plan.connectionsMaximum * (plan.hasTwoPaths ? 2 : 1)) * plan.clients
                + (plan.doors.count > 1 ? 40 * plan.doors.count : 0)
            if process.descriptorCount > most { fail("\(place) is idle, and has \(process.descriptorCount) descriptors open") }
            if !plan.mayLose, relay.usedByteCount > (plan.clients * plan.connectionsMaximum + 1) * (600 << 10) {
                fail("\(place) is idle, and holds \(relay.usedByteCount) bytes of memory")
            }
        }
    }

    /// Every process ends when it is asked to (protocol 11.1, 11.3).
    private func stop() {
        guard failure == nil else { return }
        for process in processes { process.signal(SIGTERM) }
        let last = kernel.time + milliseconds(20_000)
        kernel.at(last) {}
        proceed { kernel.time >= last }
        for process in processes where process.relay != nil || process.ending != .finished {
            fail("a process was told to stop, and \(process.relay == nil ? "ended as \(String(describing: process.ending))" : "goes on")")
        }
    }

    // MARK: Processes

    private func logger(_ name: String) -> Logger {
        Logger(label: name) { [unowned kernel] label in
            var handler = WorldLog(label, kernel)
            handler.logLevel = Trace.isOn ? .debug : .critical
            return handler
        }
    }

    private func configured(_ configuration: Configuration) -> Configuration {
        var configuration = configuration
        configuration.splicing = [.auto, .always, .never][plan.splicing]
        configuration.isKept = plan.isKept
        configuration.threads = plan.threads
        configuration.bufferByteCount = plan.bufferByteCount
        configuration.memoryByteCount = plan.memoryByteCount
        configuration.maximumStreams = plan.streamsMaximum
        configuration.drainSeconds = World.drainSeconds
        if let keyFile { configuration.security = .keys(file: keyFile) }
        return configuration
    }

    /// What stands at an address of the server's name.
    private func open(_ door: Plan.Door, at host: Int) throws {
        kernel.names[World.serverName, default: []].append(host)
        switch door {
        case .server: servers.append(try startServer(host))
        case .refusing: break
        case .silent:
            kernel.network.silentHosts.insert(host)
        case .swallowing, .foreign:
            let listener = TCPSocket(kernel, host: host)
            listener.local.port = World.carrierPort
            _ = listener.listen(backlog: 1000)
            listener.onAccept = { [unowned self] socket in
                strangers.append(socket)
                if door == .foreign { _ = socket.send([ArraySlice("SSH-2.0-OpenSSH_9.2\r\n".utf8)]) }
            }
        }
    }

    private func startServer(_ host: Int) throws -> VirtualProcess {
        let process = VirtualProcess(kernel, host: host)
        process.delayMaximum = plan.delayMaximum
        var configuration = configured(
            Configuration(
                role: .server, input: HostPort(host: "10.0.0.\(World.originHost)", port: World.originPort),
                output: HostPort(host: "10.0.0.\(host)", port: World.carrierPort)))
        if plan.asks, !configuration.allowDestination("10.0.0.\(World.originHost):\(World.originPort)") { fail("the rule of destinations is wrong") }
        if plan.isReversible {
            configuration.reverseMappings = (0..<plan.clients).map {
                Mapping(name: "client-\($0)", address: HostPort(host: "10.0.0.\(host)", port: World.reversePort + UInt16($0)))
            }
        }
        try start(process, configuration, "server \(host)")
        if let death = plan.callDeath, death.side == .server { process.die(at: death) }
        return process
    }

    private func start(_ process: VirtualProcess, _ configuration: Configuration, _ name: String) throws {
        try process.start(plan.threads) { [unowned self] state, remains in
            try makeProcess(configuration.part(0), logger(name), { configuration }, state: state, remains: remains).0
        } _: { [unowned self] first, number, state in
            try first.makeFurther(number, configuration, logger("\(name), loop \(number)"), state: state)
        }
    }

    private func startClient(_ index: Int) throws -> VirtualProcess {
        let process = VirtualProcess(kernel, host: World.clientHost + index)
        process.delayMaximum = plan.delayMaximum
        var configuration = configured(
            Configuration(
                role: .client, input: HostPort(host: "127.0.0.1", port: World.userPort),
                output: HostPort(host: plan.hasName ? World.serverName : "10.0.0.\(World.firstServerHost)", port: World.carrierPort)))
        if plan.asks {
            var mapping = Mapping(name: "asked", address: HostPort(host: "127.0.0.1", port: World.askedPort))
            mapping.kind = .socks5
            configuration.mappings.append(mapping)
        }
        if let first = plan.listedFirst {
            let places = plan.doors.indices.map { HostPort(host: "10.0.0.\(World.firstServerHost + (first + $0) % plan.doors.count)", port: World.carrierPort) }
            (configuration.output, configuration.otherServers) = (places[0], Array(places.dropFirst()))
        }
        configuration.failoverSeconds = plan.failoverSeconds
        configuration.carriers = plan.carriers
        if plan.isReversible {
            configuration.reverseMappings = [
                Mapping(name: "client-\(index)", address: HostPort(host: "10.0.0.\(World.originHost)", port: World.originPort))
            ]
        }
        try start(process, configuration, "client \(index)")
        if let death = plan.callDeath, death.side == .client { process.die(at: death) }
        return process
    }

    /// A process dies as it stands, and another one takes its place.
    func replace(_ process: VirtualProcess) {
        for loop in process.loops {
            iterations += loop.iterations
            subflows += loop.relay?.subflowTotal ?? 0
        }
        takeovers += process.takeovers + process.crashes
        kills += 1
        process.die()
        do {
            if let index = clients.firstIndex(where: { $0 === process }) { clients[index] = try startClient(index) }
            if let index = servers.firstIndex(where: { $0 === process }) { servers[index] = try startServer(process.host) }
        } catch {
            fail("cannot start again: \(error)")
        }
    }

    private func carrierConnected(_ client: TCPSocket, _ server: TCPSocket) {
        guard client.host >= World.clientHost, server.local.port == World.carrierPort else { return }
        carriers.append((client, server))
        for end in [client, server] { end.recordMaximum = plan.recordMaximum }
        for cut in plan.cuts where cut.carrier == carriers.count {
            let end = cut.from == .client ? client : server
            (end.diesAfter, end.death) = (cut.afterBytes, cut.death)
            if cut.afterBytes == 0 { end.dieAtOnce() }
        }
        guard let side = plan.liar, VirtualKernel.machine(client.host) == World.clientHost, !isHealed else { return }
        let end = side == .client ? client : server
        end.tamper = { [unowned self, unowned end] in isHealed ? $0 : liar!.lie($0, sent: end.arrivedTotal, &kernel.chance) }
    }

    var records: [[[UInt8]]] { plan.recordMaximum == .max ? carriers.map { [$0.client.record, $0.server.record] } : [] }

    func cutCarriers(_ sockets: [TCPSocket]) {
        kills += 1
        for socket in sockets { socket.receivedReset(ECONNRESET) }
    }

    // MARK: Users and origins

    /// The origin listens, if it does not.
    func listenAtOrigin() {
        guard originListener?.isOver ?? true else { return }
        let listener = TCPSocket(kernel, host: World.originHost)
        listener.local.port = World.originPort
        _ = listener.listen(backlog: 1000)
        listener.onAccept = { [unowned self] socket in
            openCount += 1
            origins.append(Talker(self, accepted: socket))
        }
        originListener = listener
    }

    /// Nobody listens at the origin any more.
    func stopOrigin() {
        hasRefused = true
        originListener.stopListening()
    }

    private func openUser(_ number: Int) {
        unopened -= 1
        openCount += 1
        let client = kernel.chance.below(plan.clients)
        let isReverse = plan.isReversible && kernel.chance.oneIn(plan.reverseOneIn)
        let asks = plan.asks && !isReverse && kernel.chance.oneIn(plan.asksOneIn)
        let host = isReverse ? World.firstServerHost : World.clientHost + client
        let socket = TCPSocket(kernel, host: host)
        let user = Talker(self, number: number, client: client, socket: socket, asks: asks)
        users.append(user)
        usersByNumber[number] = user
        _ = socket.connect(to: VirtualKernel.Name(host: host, port: isReverse ? World.reversePort + UInt16(client) : asks ? World.askedPort : World.userPort))
    }

    func user(_ number: Int) -> Talker? { usersByNumber[number] }

    /// Somebody changes what this user, or an origin of this user, sees.
    func isLied(to talker: Talker) -> Bool { plan.isBelieved && (talker.number < 0 || talker.other == nil || talker.client <= 0) }

    func ended(_ talker: Talker) {
        openCount -= 1
        talkersOverAt = kernel.time
        kernel.note(UInt64(talker.received) << 20 | UInt64(talker.number & 0xfffff))
        // A reader that stopped ends nothing by itself.
        if let other = talker.other, !other.isEnded, other.hasStopped {
            kernel.after(milliseconds(1000)) { other.abandon() }
        }
    }

    /// A session of the first client was made to crash whoever works on it.
    var isPoisoned = false

    /// A connection ended otherwise than its users wanted. A lost carrier is no reason (protocol 2.9), a lost session is one only for what it
    /// had opened (protocol 6.13), and an origin that refuses only for its own users (protocol 6.3).
    func judgeLoss(_ talker: Talker, _ what: String) {
        losses += 1
        // An origin that is away refuses new connections only.
        let isExcused =
            plan.mayLose || isLied(to: talker) || hasRefused && talker.other == nil || plan.story == .mixed && plan.streamsMaximum < plan.streams
            || plan.limits.descriptors < 1000
            // Nothing is lost with a request that nobody has answered: an upgrade ends it, and so does the time.
            || talker.isAsking && !plan.faults.allSatisfy { ![.upgrade, .crash, .freeze, .sleep].contains($0) }
            || isPoisoned && (talker.client == 0 || talker.other?.client == 0)
            // A connect that was under way at an upgrade is made once more.
            || talker.number < 0 && (plan.faults.contains(.upgrade) || plan.isKept)
            || talker.other?.state == .didReset || talker.number < 0 && users.contains { $0.state == .didReset && $0.other == nil }
        if !isExcused { fail("\(talker.description): \(what), and nobody is to blame; the other: \(talker.other?.description ?? "none")") }
    }

    /// The time is up for every connection whose users still do something.
    private func judgeEnds() {
        for talker in users + origins where !talker.isEnded && !talker.hasStopped && talker.other?.hasStopped != true {
            fail("not over in time: \(talker.description)")
        }
    }
}

/// What a process says, with virtual time, when a run is traced.
private struct WorldLog: LogHandler {
    let label: String
    /// A run belongs to one thread.
    nonisolated(unsafe) private unowned let kernel: VirtualKernel
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.critical

    init(_ label: String, _ kernel: VirtualKernel) {
        self.label = label
        self.kernel = kernel
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let words = (event.metadata ?? [:]).sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
        print("\(kernel.time / 1000) µs: \(label): \(event.message)\(words)")
    }
}
