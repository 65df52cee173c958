import Glibc
import Logging
import Loop
import Relay

/// One run: whole tele processes as they ship, their users and origins, and the machines and paths between them.
final class ProcessWorld {
    let plan: ProcessPlan
    let kernel: VirtualKernel
    private let calls: Calls
    private(set) var failure: String?
    var delivered = 0
    private(set) var losses = 0, kills = 0, iterations = 0

    private(set) var server: VirtualProcess!
    private(set) var clients: [VirtualProcess] = []
    private var users: [Talker] = []
    private var usersByNumber: [Int: Talker] = [:]
    private var origins: [Talker] = []
    private var unopened: Int
    private var openCount = 0
    /// When the last connection that is over ended.
    private var talkersOverAt: UInt64 = 0
    private(set) var isHealed = false
    private var isDraining = false
    private var healedAt: UInt64 = 0
    private var originListener: TCPSocket!
    /// The origin was away at some time: its connections may be refused.
    private var hasRefused = false
    private let keyFile: String?
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)

    static let serverHost = 2, originHost = 3, clientHost = 10
    static let carrierPort: UInt16 = 7000, originPort: UInt16 = 22, userPort: UInt16 = 2222

    static let drainSeconds = 5

    /// After the heal, every connection ends within this much virtual time.
    static let settleMaximum = milliseconds(600_000)
    static let stepsMaximum = 5_000_000

    /// Nil: this build has no world for processes (CSystemWorld.h).
    init?(_ plan: ProcessPlan, keyFile: String) {
        self.plan = plan
        self.keyFile = plan.hasKey ? keyFile : nil
        kernel = VirtualKernel(seed: plan.seed)
        kernel.limits = plan.limits
        unopened = plan.streams
        guard let calls = Calls(kernel) else { return nil }
        self.calls = calls
    }

    deinit { scratch.deallocate() }

    func fail(_ sentence: @autoclosure () -> String) { if failure == nil { failure = sentence() } }

    // MARK: The run

    func run() {
        kernel.network.standard = VirtualNetwork.Path(latency: plan.latency, jitter: plan.jitter, rate: plan.rate)
        kernel.network[ProcessWorld.serverHost, ProcessWorld.originHost] = VirtualNetwork.Path(latency: 100_000)
        kernel.network[ProcessWorld.originHost, ProcessWorld.serverHost] = VirtualNetwork.Path(latency: 100_000)
        listenAtOrigin()
        do {
            server = try startServer()
            for index in 0..<plan.clients { clients.append(try startClient(index)) }
        } catch {
            return fail("cannot start: \(error)")
        }
        let start = kernel.time
        for number in 0..<plan.streams {
            kernel.at(start + UInt64(kernel.chance.below(Int(plan.opensWithin) + 1))) { [unowned self] in openUser(number) }
        }
        if !plan.faults.isEmpty { kernel.after(UInt64(kernel.chance.below(Int(plan.faultGap) + 1))) { [unowned self] in fault() } }
        kernel.at(start + max(plan.healsAt, plan.opensWithin)) { [unowned self] in heal() }
        if let endsWithin = plan.endsWithin { kernel.at(start + endsWithin) { [unowned self] in judgeEnds() } }
        tellStory()

        proceed { isHealed && unopened == 0 && openCount == 0 && !isDraining }
        let quiet = kernel.time + milliseconds(40_000)
        kernel.at(quiet) {}
        proceed { kernel.time >= quiet }
        if let misuse = kernel.misuse { fail(misuse) }
        if Trace.isOn { print("over at \((talkersOverAt - start) / 1_000_000) ms, overdraft \(server.overdraftPeak) \(clients.map(\.overdraftPeak))") }
        audit()
        stop()
        for process in clients + [server!] {
            iterations += process.iterations
            process.die()
        }
        kernel.end()
        // Also what the end itself did.
        if let misuse = kernel.misuse { fail(misuse) }
    }

    private func proceed(until isDone: () -> Bool) {
        while failure == nil, kernel.misuse == nil, !isDone() {
            guard kernel.step() else { return fail("nothing is left to happen, and \(unfinished)") }
            if kernel.steps > ProcessWorld.stepsMaximum { fail("no end after \(kernel.steps) steps, and \(unfinished)") }
            if isHealed, kernel.time > healedAt + ProcessWorld.settleMaximum { fail("no end long after the heal, and \(unfinished)") }
        }
    }

    private var unfinished: String {
        let open = (users + origins).filter { !$0.isEnded }
        let accounts = ([server!] + clients).prefix(3).compactMap { $0.relay?.accounts }.joined(separator: "; client: ")
        return "\(unopened) users did not come, \(open.count) are open: " + open.prefix(4).map(\.description).joined(separator: "; ") + "; server: \(accounts)"
    }

    /// What idle processes hold and should not.
    private func audit() {
        for process in clients + [server!] {
            guard let relay = process.relay, failure == nil else { continue }
            let place = process === server ? "the server" : "the client"
            // The session of a client that was killed is held for it, with its connections to the origin.
            guard !plan.faults.contains(.killClient) else { continue }
            if let leftover = relay.leftover { fail("\(place) is idle, and \(leftover)") }
            // Listeners, watches, a sink, and a carrier and a spare one for each client.
            let most = 12 + 2 * plan.clients
            if process.descriptorCount > most { fail("\(place) is idle, and has \(process.descriptorCount) descriptors open") }
            if !plan.mayLose, relay.usedByteCount > (plan.clients + 1) * (600 << 10) { fail("\(place) is idle, and holds \(relay.usedByteCount) bytes of memory") }
        }
    }

    /// Every process ends when it is asked to.
    private func stop() {
        guard failure == nil else { return }
        for process in clients + [server!] { process.signal(SIGTERM) }
        let last = kernel.time + milliseconds(20_000)
        kernel.at(last) {}
        proceed { kernel.time >= last }
        for process in clients + [server!] where process.relay != nil || process.ending != .finished {
            fail("a process was told to stop, and \(process.relay == nil ? "ended as \(String(describing: process.ending))" : "goes on")")
        }
    }

    // MARK: Processes

    private func logger(_ name: String) -> Logger {
        Logger(label: name) { [unowned kernel] label in
            var handler = ProcessLog(label, kernel)
            handler.logLevel = Trace.isOn ? .debug : .critical
            return handler
        }
    }

    private func configured(_ configuration: Configuration) -> Configuration {
        var configuration = configuration
        configuration.splicing = [.auto, .always, .never][plan.splicing]
        configuration.bufferByteCount = plan.bufferByteCount
        configuration.memoryByteCount = plan.memoryByteCount
        configuration.maximumStreams = plan.streamsMaximum
        configuration.drainSeconds = ProcessWorld.drainSeconds
        if let keyFile { configuration.security = .keys(file: keyFile) }
        return configuration
    }

    private func startServer() throws -> VirtualProcess {
        let process = VirtualProcess(kernel, host: ProcessWorld.serverHost)
        process.delayMaximum = plan.delayMaximum
        let configuration = configured(Configuration(
            role: .server, input: HostPort(host: "10.0.0.\(ProcessWorld.originHost)", port: ProcessWorld.originPort),
            output: HostPort(host: "10.0.0.\(ProcessWorld.serverHost)", port: ProcessWorld.carrierPort)))
        try process.start { try makeProcess(configuration, logger("server"), { configuration }).0 }
        return process
    }

    private func startClient(_ index: Int) throws -> VirtualProcess {
        let process = VirtualProcess(kernel, host: ProcessWorld.clientHost + index)
        process.delayMaximum = plan.delayMaximum
        let configuration = configured(Configuration(
            role: .client, input: HostPort(host: "127.0.0.1", port: ProcessWorld.userPort),
            output: HostPort(host: "10.0.0.\(ProcessWorld.serverHost)", port: ProcessWorld.carrierPort)))
        try process.start { try makeProcess(configuration, logger("client \(index)"), { configuration }).0 }
        return process
    }

    // MARK: Users and origins

    private func listenAtOrigin() {
        let listener = TCPSocket(kernel, host: ProcessWorld.originHost)
        listener.local.port = ProcessWorld.originPort
        _ = listener.listen(backlog: 1000)
        listener.onAccept = { [unowned self] socket in
            origins.append(Talker(self, accepted: socket))
            openCount += 1
        }
        originListener = listener
    }

    private func openUser(_ number: Int) {
        unopened -= 1
        openCount += 1
        let client = kernel.chance.below(plan.clients)
        let host = ProcessWorld.clientHost + client
        let socket = TCPSocket(kernel, host: host)
        let user = Talker(self, number: number, client: client, socket: socket)
        users.append(user)
        usersByNumber[number] = user
        _ = socket.connect(to: VirtualKernel.Name(host: host, port: ProcessWorld.userPort))
    }

    func user(_ number: Int) -> Talker? { usersByNumber[number] }

    func ended(_ talker: Talker) {
        openCount -= 1
        talkersOverAt = kernel.time
        kernel.note(UInt64(talker.received) << 20 | UInt64(talker.number & 0xfffff))
        // A reader that stopped ends nothing by itself.
        if let other = talker.other, !other.isEnded, other.hasStopped {
            kernel.after(milliseconds(1000)) { other.abandon() }
        }
    }

    /// A connection ended otherwise than its users wanted.
    func judgeLoss(_ talker: Talker, _ what: String) {
        losses += 1
        // An origin that is away refuses new connections only.
        let isExcused = plan.mayLose || hasRefused && talker.other == nil || plan.story == .mixed && plan.streamsMaximum < plan.streams || plan.limits.descriptors < 1000
            || talker.other?.state == .didReset || talker.number < 0 && users.contains { $0.state == .didReset && $0.other == nil }
        if !isExcused { fail("\(talker.description): \(what), and nobody is to blame; the other: \(talker.other?.description ?? "none")") }
    }

    // MARK: Stories

    private func tellStory() {
        switch plan.story {
        case .forgottenCarrier:
            kernel.after(milliseconds(3000)) { [unowned self] in server.frozenUntil = kernel.time + milliseconds(10_000) }
            kernel.after(milliseconds(18_000)) { [unowned self] in forgetCarriers() }
        case .refusals:
            for delay in 0..<20 {
                kernel.after(milliseconds(20 + 100 * delay)) { [unowned self] in
                    let process = kernel.chance.pick(clients + [server!])
                    process.refusesUntil = kernel.time + microseconds(kernel.chance.skewed(100_000))
                }
            }
        case .hoard:
            kernel.after(milliseconds(20)) { [unowned self] in
                silence(ProcessWorld.clientHost, ProcessWorld.serverHost, milliseconds(5000), both: true)
            }
        case .mixed, .crowd, .resetStorm, .stoppedReaders, .longPath, .urgent: break
        }
    }

    /// The carriers that there are carry nothing from now on; the next one is noticed soon.
    private func forgetCarriers() {
        for socket in kernel.connections(between: ProcessWorld.clientHost, and: ProcessWorld.serverHost) { socket.isSwallowed = true }
        let began = kernel.time
        kernel.after(milliseconds(2500)) { [unowned self] in
            for talker in users + origins where !talker.isEnded && talker.heardAt < began + milliseconds(200) {
                fail("nothing came for 2.5 s after the carrier was forgotten: \(talker.description)")
            }
        }
    }

    /// The time is up for every connection whose users still do something.
    private func judgeEnds() {
        for talker in users + origins where !talker.isEnded && !talker.hasStopped && talker.other?.hasStopped != true { fail("not over in time: \(talker.description)") }
    }

    // MARK: Misfortune

    private func fault() {
        guard !isHealed else { return }
        let kind = kernel.chance.pick(plan.faults)
        let client = ProcessWorld.clientHost + kernel.chance.below(plan.clients)
        if Trace.isOn { print("\(kernel.time / 1000) µs: \(kind), client \(client)") }
        let length = UInt64(kernel.chance.skewed(Int(plan.healsAt)))
        switch kind {
        case .silence: silence(client, ProcessWorld.serverHost, length, both: true)
        case .halfSilence:
            if kernel.chance.oneIn(2) { silence(client, ProcessWorld.serverHost, length, both: false) }
            else { silence(ProcessWorld.serverHost, client, length, both: false) }
        case .cut: cut(client, isHalf: false)
        case .halfCut: cut(client, isHalf: true)
        case .cutAtByte:
            let ends = kernel.connections(between: client, and: ProcessWorld.serverHost)
            if !ends.isEmpty { kernel.chance.pick(ends).diesAfter = 1 + kernel.chance.skewed(64 << 10) }
        case .forget:
            for socket in kernel.connections(between: client, and: ProcessWorld.serverHost) { socket.isSwallowed = true }
        case .refuse:
            let process = kernel.chance.pick(clients + [server!])
            process.refusesUntil = kernel.time + microseconds(kernel.chance.skewed(200_000))
        case .drainServer: drainServer()
        case .slow:
            for (from, to) in [(client, ProcessWorld.serverHost), (ProcessWorld.serverHost, client)] {
                kernel.network[from, to].latency = kernel.chance.oneIn(3) ? plan.latency : microseconds(kernel.chance.skewed(500_000))
            }
        case .freeze:
            let process = kernel.chance.pick(clients + [server!])
            process.frozenUntil = max(process.frozenUntil, kernel.time + length / 4)
        case .networkNews: for process in clients { process.networkChanged() }
        case .reload: kernel.chance.pick(clients + [server!]).signal(SIGHUP)
        case .killClient, .killServer: restart(kind == .killServer ? nil : client - ProcessWorld.clientHost)
        case .refuseOrigin:
            hasRefused = true
            originListener.stopListening()
            kernel.after(length / 4) { [unowned self] in if originListener.isOver { listenAtOrigin() } }
        }
        kernel.after(UInt64(kernel.chance.below(Int(2 * plan.faultGap) + 1))) { [unowned self] in fault() }
    }

    private func silence(_ one: Int, _ other: Int, _ length: UInt64, both: Bool) {
        kernel.network[one, other].isSilent = true
        if both { kernel.network[other, one].isSilent = true }
        kernel.after(length) { [unowned self] in
            kernel.network[one, other].isSilent = false
            if both { kernel.network[other, one].isSilent = false }
        }
    }

    private func cut(_ client: Int, isHalf: Bool) {
        kills += 1
        for socket in kernel.connections(between: client, and: ProcessWorld.serverHost) where !isHalf || kernel.chance.oneIn(2) {
            socket.receivedReset(ECONNRESET)
        }
    }

    private func restart(_ index: Int?) {
        kills += 1
        do {
            if let index {
                iterations += clients[index].iterations
                clients[index].die()
                clients[index] = try startClient(index)
            } else {
                iterations += server.iterations
                server.die()
                server = try startServer()
            }
        } catch {
            fail("cannot start again: \(error)")
        }
    }

    /// It ends within its drain, a goodbye, and what it was frozen; then another takes its place.
    private func drainServer() {
        guard !isDraining, let process = server else { return }
        isDraining = true
        kills += 1
        process.signal(SIGTERM)
        let last = max(kernel.time, process.frozenUntil) + milliseconds(1000 * ProcessWorld.drainSeconds + 3000)
        awaitEnd(of: process, last)
    }

    private func awaitEnd(of process: VirtualProcess, _ last: UInt64) {
        // It was killed meanwhile, and is another one.
        guard process === server else {
            isDraining = false
            return
        }
        guard process.relay != nil else {
            isDraining = false
            if process.ending != .finished { fail("a server that was told to drain ended as \(String(describing: process.ending))") }
            return restart(nil)
        }
        if kernel.time > max(last, process.frozenUntil + milliseconds(3000)) { return fail("a server that was told to drain goes on") }
        kernel.after(milliseconds(50)) { [unowned self] in awaitEnd(of: process, last) }
    }

    private func heal() {
        isHealed = true
        healedAt = kernel.time
        for host in 0..<plan.clients {
            for (from, to) in [(ProcessWorld.clientHost + host, ProcessWorld.serverHost), (ProcessWorld.serverHost, ProcessWorld.clientHost + host)] {
                kernel.network[from, to] = kernel.network.standard
            }
        }
        if originListener.isOver { listenAtOrigin() }
        // Pairs that wait for a reader that has stopped end by a reset.
        kernel.after(milliseconds(30_000)) { [unowned self] in abandonStopped() }
    }

    private func abandonStopped() {
        for talker in users + origins where !talker.isEnded && talker.hasStopped { talker.abandon() }
        // A client that was killed comes back for nothing: its session is held, and the origins of its users wait.
        for origin in origins where !origin.isEnded && (origin.other?.isEnded ?? plan.mayLose) && plan.mayLose { origin.abandon() }
        if openCount > 0 { kernel.after(milliseconds(10_000)) { [unowned self] in abandonStopped() } }
    }
}

/// What a process says, with virtual time, when a run is traced.
private struct ProcessLog: LogHandler {
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
