import Chance
import Glibc
import Wire

/// What goes wrong in a run, until the heal; and the stories, which have their own.
final class FaultInjector {
    unowned private let world: World
    private let plan: Plan
    private let kernel: VirtualKernel
    private var draining: VirtualProcess?
    /// Those who send old HELLOs.
    private var strangers: [TCPSocket] = []

    init(_ world: World) {
        self.world = world
        (plan, kernel) = (world.plan, world.kernel)
    }

    var isDraining: Bool { draining != nil }

    func begin() {
        guard !plan.faults.isEmpty else { return }
        kernel.after(UInt64(kernel.chance.below(Int(plan.faultGap) + 1))) { [unowned self] in strike() }
    }

    /// The network is whole again.
    func end() {
        for client in world.clients.flatMap({ hosts($0) }) {
            for host in world.serverHosts {
                (kernel.network[client, host], kernel.network[host, client]) = (kernel.network.standard, kernel.network.standard)
            }
        }
        for carrier in world.carriers { (carrier.client.lag, carrier.server.lag) = (0, 0) }
        kernel.namesFailUntil = 0
    }

    // MARK: Faults

    private func strike() {
        guard !world.isHealed else { return }
        let kind = kernel.chance.pick(plan.faults)
        let client = kernel.chance.pick(world.clients), server = kernel.chance.pick(world.servers)
        if Trace.isOn { print("\(kernel.time / 1000) µs: \(kind), client \(client.host), server \(server.host)") }
        inflict(kind, client, server, UInt64(kernel.chance.skewed(Int(plan.healsAt))))
        kernel.after(UInt64(kernel.chance.below(Int(2 * plan.faultGap) + 1))) { [unowned self] in strike() }
    }

    /// `length`: nanoseconds, of what lasts.
    private func inflict(_ kind: Plan.Fault, _ client: VirtualProcess, _ server: VirtualProcess, _ length: UInt64) {
        let host = kernel.chance.pick(hosts(client))
        let (here, there) = kernel.chance.oneIn(2) ? (host, server.host) : (server.host, host)
        switch kind {
        case .silence: silence(here, there, length, both: true)
        case .halfSilence: silence(here, there, length, both: false)
        case .cut: world.cutCarriers(carriers(client))
        case .halfCut: world.cutCarriers(carriers(client).filter { _ in kernel.chance.oneIn(2) })
        case .cutAtByte:
            guard let end = anyCarrier(client) else { return }
            (end.diesAfter, end.death) = (1 + kernel.chance.skewed(64 << 10), kernel.chance.pick(TCPSocket.Death.allCases))
        case .forget: for socket in carriers(client) { socket.isSwallowed = true }
        case .refuse: kernel.chance.pick(world.loops).refusesUntil = kernel.time + microseconds(kernel.chance.skewed(200_000))
        case .drainServer: drain(server)
        case .slow:
            for (from, to) in [(here, there), (there, here)] {
                kernel.network[from, to].latency = kernel.chance.oneIn(3) ? plan.latency : microseconds(kernel.chance.skewed(500_000))
            }
        case .lag:
            let sockets = carriers(client)
            for socket in sockets { socket.lag = microseconds(kernel.chance.skewed(3_000_000)) }
            kernel.after(length) { for socket in sockets { socket.lag = 0 } }
        case .freeze:
            let process = kernel.chance.pick(world.loops)
            process.frozenUntil = max(process.frozenUntil, kernel.time + length / 4)
        case .sleep:
            for own in hosts(client) { for host in world.serverHosts { silence(own, host, length / 2, both: true) } }
            client.sleep(length / 2)
        case .networkNews: for process in world.clients { process.networkChanged() }
        case .namesFail: kernel.namesFailUntil = kernel.time + length
        case .upgrade: kernel.chance.pick(world.processes).upgrade()
        case .crash: kernel.chance.pick(world.processes).crash()
        case .reload: kernel.chance.pick(world.processes).signal(SIGHUP)
        // Who comes back asks for a session that nobody knows (protocol 4.20, 11.5).
        case .killClient: world.replace(client)
        case .killServer: if server !== draining { world.replace(server) }
        case .oldHello: repeatHellos(to: server.host)
        case .refuseOrigin:
            world.stopOrigin()
            kernel.after(length / 4) { [unowned self] in world.listenAtOrigin() }
        }
    }

    private func carriers(_ client: VirtualProcess) -> [TCPSocket] {
        world.serverHosts.flatMap { host in hosts(client).flatMap { kernel.connections(between: $0, and: host) } }
    }

    /// Its interfaces, as the network knows them.
    private func hosts(_ client: VirtualProcess) -> [Int] {
        plan.hasTwoPaths ? [client.host, VirtualKernel.secondInterface(of: client.host)] : [client.host]
    }

    private func anyCarrier(_ client: VirtualProcess) -> TCPSocket? {
        let ends = carriers(client)
        return ends.isEmpty ? nil : kernel.chance.pick(ends)
    }

    private func silence(_ from: Int, _ to: Int, _ length: UInt64, both: Bool) {
        let pairs = both ? [(from, to), (to, from)] : [(from, to)]
        for (from, to) in pairs { kernel.network[from, to].isSilent = true }
        kernel.after(length) { [unowned self] in for (from, to) in pairs { kernel.network[from, to].isSilent = false } }
    }

    /// protocol 4.6, 12.4
    ///
    /// HELLOs that a server has seen come once more, with their early bytes, from somebody else, who then says nothing for a while. (Who
    /// repeats a whole carrier without a key is believed: docs/protocol.md 12.)
    private func repeatHellos(to host: Int) {
        let seen = world.carriers.filter { $0.server.host == host && $0.client.record.count >= Hello.leastByteCount }
        guard !seen.isEmpty else { return }
        for _ in 0..<4 {
            let carrier = kernel.chance.pick(seen), record = carrier.client.record
            let early = plan.hasKey ? record.count : record[48..<52].reduce(0) { $0 << 8 | Int($1) }
            // One that was answered is old; one that asks for a new session gets one.
            let isOld = !plan.hasKey && carrier.server.record.first == FrameType.welcome && record[8..<24].contains { $0 != 0 }
            let body = Int(record[6]) << 8 | Int(record[7])
            send(record.prefix(Specification.prefaceByteCount + body + early), to: host, isOld: isOld)
        }
    }

    private func send(_ bytes: ArraySlice<UInt8>, to host: Int, isOld: Bool) {
        let socket = TCPSocket(kernel, host: World.strangerHost)
        var isSent = false, isAnswered = false
        socket.program = { [unowned self, unowned socket] in
            guard socket.connectResult == 0, !isAnswered else { return }
            if !isSent {
                isSent = true
                _ = socket.send([bytes])
            }
            var first: UInt8 = 0
            guard socket.receive(&first, 1) == 1 else { return }
            isAnswered = true
            if first == FrameType.welcome, isOld { world.fail("a server believed a HELLO that it had answered before") }
        }
        strangers.append(socket)
        _ = socket.connect(to: VirtualKernel.Name(host: host, port: World.carrierPort))
        kernel.after(milliseconds(5000)) { [unowned self] in
            strangers.removeAll { $0 === socket }
            socket.reset()
        }
    }

    // MARK: Drains

    /// protocol 11.2, 11.4
    ///
    /// It ends within its drain, a goodbye, and what it was frozen; then another takes its place.
    private func drain(_ process: VirtualProcess) {
        guard draining == nil else { return }
        draining = process
        process.signal(SIGTERM)
        awaitEnd(of: process, max(kernel.time, process.lastFrozenUntil) + milliseconds(1000 * World.drainSeconds + 3000))
    }

    private func awaitEnd(of process: VirtualProcess, _ last: UInt64) {
        guard process.relay != nil else {
            draining = nil
            if process.ending != .finished { world.fail("a server that was told to drain ended as \(String(describing: process.ending))") }
            return world.replace(process)
        }
        if kernel.time > max(last, process.lastFrozenUntil + milliseconds(3000)) { return world.fail("a server that was told to drain goes on") }
        kernel.after(milliseconds(50)) { [unowned self] in awaitEnd(of: process, last) }
    }

    // MARK: Stories

    func tellStory() {
        switch plan.story {
        case .forgottenCarrier:
            kernel.after(milliseconds(3000)) { [unowned self] in world.servers[0].frozenUntil = kernel.time + milliseconds(10_000) }
            kernel.after(milliseconds(18_000)) { [unowned self] in forgetCarriers() }
        case .refusals:
            for delay in 0..<20 {
                kernel.after(milliseconds(20 + 100 * delay)) { [unowned self] in
                    kernel.chance.pick(world.processes).refusesUntil = kernel.time + microseconds(kernel.chance.skewed(100_000))
                }
            }
        case .crowdReturns:
            kernel.after(milliseconds(5000)) { [unowned self] in
                for client in world.clients { world.cutCarriers(carriers(client)) }
                // Meanwhile every client dials again and again: it finds a long queue of carriers.
                world.servers[0].frozenUntil = kernel.time + milliseconds(2000)
            }
        case .hoard:
            kernel.after(milliseconds(20)) { [unowned self] in
                silence(World.clientHost, World.firstServerHost, milliseconds(5000), both: true)
            }
        case .twoPaths:
            for round in 0..<3 { kernel.after(milliseconds(5000 + 6000 * round)) { [unowned self] in silenceBusyPath() } }
        case .poisoned: kernel.after(milliseconds(100 + kernel.chance.below(1500))) { [unowned self] in poison() }
        case .takeovers, .crashes, .mixed, .crowd, .resetStorm, .stoppedReaders, .longPath, .urgent, .conversation, .abandonedDownloads, .replicas,
            .failover, .lossy, .loops, .splicedCrashes:
            break
        }
    }

    /// A session of the first client, on either side; as soon as there is one.
    private func poison() {
        guard !world.isHealed else { return }
        guard kernel.chance.pick([world.clients[0]] + world.servers).poison(world.clients[0].busySessions) else {
            return kernel.after(milliseconds(20)) { [unowned self] in poison() }
        }
        world.isPoisoned = true
    }

    /// The path that carries is silent for three seconds; the other one is there at once.
    private func silenceBusyPath() {
        guard
            let busy = carriers(world.clients[0]).filter({ VirtualKernel.machine($0.host) == world.clients[0].host }).max(by: {
                $0.arrivedTotal < $1.arrivedTotal
            })
        else { return }
        silence(busy.host, World.firstServerHost, milliseconds(3000), both: true)
        let began = kernel.time
        // What a liar changes costs the next carrier, too.
        guard plan.liar == nil else { return }
        kernel.after(6 * plan.latency + milliseconds(500)) { [unowned self] in
            for talker in world.users + world.origins where !talker.isEnded && talker.heardAt < began + 2 * plan.latency + milliseconds(20) {
                world.fail("nothing came by the other path: \(talker.description)")
            }
        }
    }

    /// The carriers that there are carry nothing from now on; the next one is noticed soon.
    private func forgetCarriers() {
        for socket in carriers(world.clients[0]) { socket.isSwallowed = true }
        let began = kernel.time
        // What a liar or a middlebox changes may cost the next carrier, too.
        guard plan.liar == nil else { return }
        kernel.after(milliseconds(2500)) { [unowned self] in
            for talker in world.users + world.origins where !talker.isEnded && talker.heardAt < began + milliseconds(200) {
                world.fail("nothing came for 2.5 s after the carrier was forgotten: \(talker.description)")
            }
        }
    }
}
