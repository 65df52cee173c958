import Control
import CSlab
import Glibc
import Logging
import Loop
import Time
import Tunnel

/// One tele process: its event loop and its time.
///
/// An iteration: wait; let every completion change state and note which sockets have work; then one send for each local socket that has
/// bytes, one gathered send for each carrier; then the timers. Sockets belong to `LocalSockets` and `Carriers`, protocol state to `Sessions`,
/// bytes are counted by `Budget`, what a client or a server alone decides lies in its `Host`.
///
/// More stored properties than most: it is the process, and every owner finds the others through it.
package final class RelayProcess {
    /// Only its mappings change, by a reload.
    var configuration: Configuration
    var activation = Activation()
    let manager: ServiceManager
    var events: EventLog
    let loop: Loop
    let arena: OpaquePointer
    let budget: Budget
    let pipes: Pipes
    /// Descriptors that this process may have open.
    let descriptorLimit: Int
    let resolver: Resolver
    /// Nil: carriers are plain.
    let credentials: Credentials?
    var generator = Entropy()

    private(set) var locals: LocalSockets!
    private(set) var carriers: Carriers!
    private(set) var sendSplice: SendSplice!
    private(set) var receiveSplice: ReceiveSplice!
    private(set) var sessions: Sessions!
    private(set) var listeners: Listeners!
    private(set) var origins: Origins!
    private(set) var destinations: Destinations!
    private(set) var watches: Watches!
    private(set) var reload: Reload!
    private(set) var admin: AdminServer!
    private(set) var handover: Handover!
    /// Nil: what it holds ends with the process.
    private(set) var ledger: Ledger?
    /// With a ledger.
    private(set) var delayedMoves: DelayedMoves?
    /// Its place among the loops of the process. Nil: it is the only one.
    private(set) var member: LoopMember?
    /// One of the two, set once before the first iteration.
    private(set) var client: Client?
    private(set) var server: Server?
    private(set) var host: (any Host)!

    var timers = TimerHeap()
    private(set) var stopping: Stopping
    /// Nanoseconds on `Clock`, read once an iteration, and again when another loop has sent something.
    private(set) var now: UInt64
    /// When the wait began, and until when it lasts.
    private var waiting: (since: UInt64, deadline: UInt64?) = (0, nil)
    /// When the process began, whatever program it ran then, and this program in it.
    var startedAt = Clock.now()
    let programStartedAt = Clock.now()
    /// The state of the program before, until it has been taken over.
    var inheritance: Inheritance?
    /// The program that started this process for one stream no longer needs it.
    private(set) var isReleased = false
    private var trimmedAt: UInt64 = 0
    /// Called once, when what was taken over is committed.
    package var forgetPredecessor: (RelayProcess) -> Void = { _ in }
    private let keeper = Keeper.ofThisProcess
    /// When the host was last told of a network change.
    private var networkChangedAt: UInt64 = 0
    /// Scratch for the iovecs of one send.
    let iovecs = UnsafeMutablePointer<iovec>.allocate(capacity: Policy.iovecMaximum)

    /// Descriptors that the program before left open.
    var inheritedCount: Int { inheritance?.descriptors.count ?? 0 }

    /// Local sockets of all loops.
    var connectionCount: Int { member?.connections ?? locals.count }

    var instant: Instant { Instant(nanoseconds: now) }

    /// `member`: of which group it is a further loop, and its number there: what a process has once is the first one's.
    init(
        _ configuration: Configuration, log: Logger, _ reconfigure: Reconfigure? = nil, inheritance: Inheritance? = nil,
        member: (group: LoopGroup, number: Int)? = nil
    ) throws {
        self.configuration = configuration
        self.inheritance = inheritance
        if inheritance != nil { activation.forget() }
        events = EventLog(log)
        now = Clock.now()
        budget = Budget(configuration)
        credentials = try Credentials(configuration)
        stopping = Stopping(drainFor: .seconds(UInt64(configuration.drainSeconds)))
        let isFirst = member == nil
        manager = isFirst ? ServiceManager() : ServiceManager(socket: nil)
        let signals: Signals?
        do {
            signals = isFirst ? try Signals() : nil
        } catch {
            throw StartFault(.other, "cannot take signals (\(error))", hint: "is the process restricted by a sandbox?")
        }
        descriptorLimit = Descriptors.raiseLimit() / configuration.threads
        arena = try RelayProcess.makeArena(configuration)
        pipes = Pipes(descriptorLimit: descriptorLimit, keptArena: configuration.isKept ? arena : nil)
        do {
            let keeping = configuration.isKept ? Loop.Keeping(keep: { arena_keep(OpaquePointer($0), $1) }, context: UnsafeMutableRawPointer(arena)) : nil
            loop = try Loop(driver: configuration.driver, poolCount: Policy.poolCount, poolByteCount: Policy.poolByteCount, keeping: keeping)
        } catch {
            let hint =
                error.code == ENOMEM && configuration.driver == .uring
                ? "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=), which each thread's ring needs, or use -io=auto"
                : "use -io=auto, which takes epoll where io_uring is not allowed"
            throw StartFault(.unavailable, "cannot start the \(configuration.driver.rawValue) driver (\(error))", hint: hint)
        }
        resolver = Resolver(wake: loop.waker)
        // Before the local sockets, which get the descriptors that are left.
        watches = Watches(self, signals, files: isFirst ? configuration.security.certificateFiles : [])
        if configuration.isKept {
            ledger = Ledger(self)
            delayedMoves = DelayedMoves(self)
            #if CANARIES
            if Canary.selected == .movesAtOnce { delayedMoves = nil }
            #endif
        }
        sessions = Sessions(self)
        let table = LocalTable()
        if ledger != nil { table.noteChanges() }
        sendSplice = SendSplice(self, table)
        receiveSplice = ReceiveSplice(self, table)
        locals = LocalSockets(self, table, sendSplice, receiveSplice)
        carriers = Carriers(self, receiveSplice, locals.writer)
        listeners = Listeners(self)
        origins = Origins(self)
        destinations = Destinations(self)
        reload = Reload(self, reconfigure)
        admin = AdminServer(self)
        handover = Handover(self)
        if let member { self.member = LoopMember(self, member.group, number: member.number) }
        guard isFirst else { return }
        let memory = configuration.memoryByteCount * configuration.threads
        if let limit = Memory.limit, memory > limit / 10 * 9 { events.note(.memoryBeyondLimit(configured: memory, limit: limit)) }
        if let reason = loop.fallbackReason { events.note(.ringUnavailable(reason: reason)) }
    }

    private static func makeArena(_ configuration: Configuration) throws -> OpaquePointer {
        var opened: OpaquePointer?
        let wanted = configuration.memoryByteCount + configuration.memoryByteCount / 2 + Policy.arenaSpare
        let maximum = min(wanted, Policy.arenaMaximum)
        let failed = configuration.isKept ? arena_create_kept(&opened, maximum) : arena_create(&opened, maximum)
        guard failed == 0, let opened else {
            throw StartFault(.other, "cannot reserve memory (\(SystemError(-failed)))", hint: "try a smaller -memory")
        }
        return opened
    }

    deinit {
        member?.mail.close()
        // First the resolver's threads, then the operations in the kernel, then the memory that they use.
        resolver.close()
        loop.close()
        arena_destroy(arena)
        iovecs.deallocate()
    }

    /// It is the first loop of several.
    func lead(_ group: LoopGroup) {
        member = LoopMember(self, group, number: 0)
        // Of sessions that were restored before: limits hold over all loops.
        server?.countStreams()
    }

    func readClock() {
        #if CANARIES
        if Canary.selected == .trustsItsClock { return }
        #endif
        now = Clock.now()
    }

    /// For simulations: other threads run here, and send messages that are younger than `now`.
    package var duringTurn: (() -> Void)?

    /// Nanoseconds from `time` to now. Zero if it is later: another loop of the process read the clock.
    func age(of time: UInt64) -> UInt64 {
        #if CANARIES
        hasSeenLaterTime = hasSeenLaterTime || time > now
        #endif
        return now > time ? now - time : 0
    }

    #if CANARIES
    /// For simulations: it never is.
    package private(set) var hasSeenLaterTime = false
    #endif

    /// It has what a process has once.
    var isFirst: Bool { member.map { $0.lead != nil } ?? true }

    func become(_ client: Client) { (self.client, host) = (client, client) }

    func become(_ server: Server) { (self.server, host) = (server, server) }

    // MARK: Mappings

    func mapping(at place: MappingPlace) -> Mapping? { place.isOrigin ? origins.mapping(at: place.index) : listeners.mapping(at: place.index) }

    /// The place of a mapping. One that the configuration no longer has gets a place, with `address`. Nil: too many mappings.
    func place(of name: String, isOrigin: Bool, address: HostPort?) -> MappingPlace? {
        if isOrigin { return origins.place(of: name, address: address) }
        return listeners.place(of: name) ?? listeners.place(ofFormer: Mapping(name: name, address: address ?? HostPort(host: "", port: 0)))
    }

    /// What metrics and status call it. A name may be that of a mapping and of a reverse one; no name has a parenthesis or a colon.
    func label(_ place: MappingPlace) -> String {
        if place.isOrigin, origins.isOfDestinations(place.index) { return "(destinations)" }
        let name = mapping(at: place)?.name ?? ""
        let isReverse = place.isOrigin == (configuration.role == .client)
        return isReverse ? name.isEmpty ? "(reverse)" : "reverse:\(name)" : name.isEmpty ? "(in)" : name
    }

    // MARK: The event loop

    /// Runs until the process is told to stop. Blocks the calling thread.
    func run() -> Ending {
        begin()
        do throws(StartFault) {
            repeat {
                while try iterate() {}
                if handover.isSettled { handover.replaceProgram() }
            } while !stopping.isStopped
        } catch {
            return .failed(error)
        }
        return finish()
    }

    /// Before the first iteration. A caller that does not use `run` calls this, then `iterate` until it returns false, then `finish`.
    package func begin() {
        origins.lookUp()
        host.start()
        inheritance.map { handover.takeOver($0) }
        inheritance = nil
        listeners.arm()
        watches.arm()
        reload.noteCertificateAge()
        manager.ready()
        signOfLife()
        if let ledger { ledger.commit { forgetPredecessor(self) } } else { forgetPredecessor(self) }
        forgetPredecessor = { _ in }
        planWait()
    }

    /// The next iteration waits until this time (nanoseconds on `Clock`), unless something completes; nil: for ever.
    package var nextDeadline: UInt64? { waiting.deadline }

    /// With work left, the next iteration does not wait.
    private func planWait() {
        waiting = (Clock.now(), hasWork || sessions.hasPostponed || carriers.reader.hasUnfinished ? now : timers.nextDeadline)
    }

    /// One iteration: waits, lets every completion change state, sends what there is to send, then looks at the timers. False: the process
    /// has stopped, or is ready to be handed over.
    package func iterate() throws(StartFault) -> Bool {
        guard !stopping.isStopped, !handover.isSettled else { return false }
        let (before, deadline) = waiting
        var isFirst = true
        do throws(SystemError) {
            try loop.wait(until: deadline) { completion in
                if isFirst { now = Clock.now() }
                isFirst = false
                handle(completion)
            }
        } catch {
            if !error.isShortage { throw StartFault(.other, "the event loop failed (\(error))", hint: "please report this") }
            Clock.sleep(nanoseconds: Policy.retryDelay.nanoseconds)
        }
        now = Clock.now()
        sendSplice.beginTurn()
        sessions.beginTurn()
        carriers.reader.readOn()
        noticePause(since: before, deadline)
        for answer in resolver.takeAnswers() { handleLookup(answer) }
        duringTurn?()
        member?.handleMessages()
        flush()
        var hasMore = hasWork
        while let token = timers.takeExpired(now: now) {
            handleTimer(token)
            hasMore = true
        }
        if hasMore { flush() }
        advanceStop()
        handover.advance()
        trim()
        if manager.isThere { manager.status(host.summary, host.summaryWords) }
        if let ledger, ledger.isDue { ledger.commit() }
        if let ledger, !ledger.isDead, delayedMoves?.make() ?? false { ledger.commit() }
        member?.publish()
        planWait()
        return !stopping.isStopped && !handover.isSettled
    }

    /// After the last iteration.
    package func finish() -> Ending {
        listeners.closeAll()
        guard isFirst else { return host.ending }
        member?.lead?.awaitOthers()
        events.note(.stopped)
        return member?.lead?.fault.map { .failed($0) } ?? host.ending
    }

    /// The machine slept, or this process was stopped: what we know of the path is old.
    private func noticePause(since before: UInt64, _ deadline: UInt64?) {
        let least = Policy.pauseMinimum.nanoseconds
        let wasStopped = now - before > least && now > deadline ?? .max && now - (deadline ?? now) > least
        let slept = watches.takeSleep()
        guard wasStopped || slept > Policy.sleepMinimum.nanoseconds else { return }
        if isFirst { events.note(.wokeAfterPause(seconds: max(now - before, slept) / 1_000_000_000)) }
        client?.pathMayHaveChanged()
    }

    /// Sent from the event loop, so that a loop that hangs is noticed.
    private func signOfLife() {
        guard let pause = [manager.watchdog, keeper == nil ? nil : Policy.keeperBeat.nanoseconds].compactMap({ $0 }).min() else { return }
        if manager.watchdog != nil, member?.lead?.areOthersAlive() ?? true { manager.isAlive() }
        keeper?.stopIfStopped()
        keeper?.beat()
        timers.set(Operation.watchdog.token(), at: Clock.now() + pause)
    }

    /// The memory that a next process goes on from.
    var keptDescriptor: Int32? { ledger == nil || arena_descriptor(arena) < 0 ? nil : arena_descriptor(arena) }

    /// Memory that a burst needed goes back to the system, a little at a time.
    private func trim() {
        guard now > trimmedAt + Policy.trimInterval.nanoseconds else { return }
        trimmedAt = now
        receiveSplice.coolDown()
        pipes.trim()
        if arena_committed(arena) > arena_used(arena) + Policy.spareByteCount { arena_trim(arena, Policy.spareByteCount / 2) }
    }

    private var hasWork: Bool { locals.writer.hasWork || sessions.hasWork }

    /// Starts one send for each socket and session that has work, then re-arms the receives.
    private func flush() {
        if !handover.isUnderWay { origins.connectWaiting() }
        var rounds = 0
        while hasWork, rounds < 4 {
            rounds += 1
            locals.writer.flush()
            sessions.flush()
        }
        if budget.takeWakeReaders() { locals.reader.wakeAll() }
        locals.reader.armAll()
        carriers.reader.armAll()
        listeners.arm()
    }

    func handleLookup(_ answer: Resolver.Answer) {
        switch Operation(rawValue: Token(rawValue: answer.token).kind) {
        case .listenerLookup: reload.handleLookup(answer)
        case .originLookup: origins.handleLookup(answer)
        default: client?.handleLookup(answer)
        }
    }

    private func handle(_ completion: Completion) {
        guard let operation = Operation(rawValue: completion.token.kind) else { return }
        switch operation {
        case .userReceivePooled, .userReceive, .userReadable, .userSend, .userWritable, .userWatch:
            locals.handle(operation, completion)
        case .originConnect:
            origins.handleConnected(completion.token, completion.error)
        case .carrierConnect, .carrierReceive, .carrierReceivePooled, .carrierReadable, .carrierSend, .carrierWritable:
            carriers.handle(operation, completion)
        case .accept:
            listeners.handle(completion)
        case .adminReceive, .adminSend:
            admin.handle(operation, completion)
        case .requestReadable, .requestSend:
            client?.requests.handle(operation, completion)
        case .successorChecked:
            handover.handleChecked()
        case .signals, .wakeEvents, .fileEvents, .networkEvents:
            watches.handle(operation)
        default:
            preconditionFailure("a completion of a timer")
        }
    }

    private func handleTimer(_ token: Token) {
        guard let operation = Operation(rawValue: token.kind) else { return }
        switch operation {
        case .sessionTimeout: sessions.handleTimeout(token)
        case .carrierDeadline: carriers.handleDeadline(token)
        case .carrierRetry: carriers.handleRetry(token)
        case .carrierRoom: carriers.writer.handleRoom(token)
        case .originDeadline: origins.handleDeadline(token)
        case .originAttempt: origins.handleAttemptDue(token)
        case .originQuestion: origins.handleQuestionDue(token)
        case .flushDeadline: locals.handleFlushDeadline(token.index)
        case .usersRetry: locals.handleRetry()
        case .readersRetry: locals.reader.handleRetry()
        case .coolDown: locals.reader.handleCoolDown()
        case .carriersCoolDown: carriers.reader.handleCoolDown()
        case .adminDeadline: admin.handleDeadline(token)
        case .requestDeadline: client?.requests.handleDeadline(token)
        case .requestsRetry: client?.requests.handleRetry()
        case .watchesRetry: watches.arm()
        case .networkSettled: handleNetworkEvents()
        case .filesSettled: reload.renewCertificates()
        case .certificateAge: reload.noteCertificateAge()
        case .acceptPause: listeners.handlePauseOver(token)
        case .acceptAnew: listeners.lookAgain(Int(token.index) + 1)
        case .watchdog: signOfLife()
        case .successorLate: handover.handleLate()
        case .reportsLate: break  // Looked after at the end of the turn.
        case .stopping: break  // The wheel looks after each turn.
        default: host.handleTimer(operation, token)
        }
    }

    /// The network changed: the first of many events at once, the others together.
    func handleNetworkEvents() {
        let next = networkChangedAt + Policy.networkPause.nanoseconds
        guard now >= next else { return timers.set(Operation.networkSettled.token(), at: next) }
        networkChangedAt = now
        if stopping.isRunning { listeners.renewLinks() }
        client?.networkChanged()
    }

    // MARK: Stopping

    /// Signals that were taken, and those of them whose effect is committed: the others are sent again to the next process.
    private var signalsTaken: UInt32 = 0
    package private(set) var signalsConfirmed: UInt32 = 0

    var awaitsConfirmation: Bool { signalsConfirmed != signalsTaken }

    func confirmSignals() {
        guard signalsConfirmed != signalsTaken else { return }
        keeper?.confirm(signals: signalsTaken - signalsConfirmed)
        signalsConfirmed = signalsTaken
    }

    func handleSignal(_ number: Int32) {
        signalsTaken += 1
        switch number {
        // ssh ends its ProxyCommand like this.
        case SIGHUP where configuration.stream != nil:
            isReleased = true
            request(gently: false)
        case SIGUSR1:
            client?.pathMayHaveChanged()
            member?.mail.tellOthers(.pathMayHaveChanged)
        case SIGUSR2: handover.ask()
        case SIGHUP: reload.run()
        default: request(gently: number == SIGTERM)
        }
    }

    /// The process is asked to stop. `gently`: open streams may end first.
    func request(gently: Bool) {
        handover.giveUp("the process was told to stop")
        if isFirst { member?.mail.tellOthers(.stop(gently: gently)) }
        take(stopping.handleRequest(gently: gently, now: instant))
    }

    private func advanceStop() {
        guard !stopping.isRunning else { return }
        take(
            stopping.advance(
                isIdle: stopping.isDraining && locals.count == 0 && sessions.isIdle && isLast,
                closeSent: stopping.isClosing && locals.count == 0 && sessions.closeSent && isLast, now: instant))
    }

    /// The first loop goes last.
    private var isLast: Bool { member?.lead?.isAlone ?? true }

    private func take(_ step: Stopping.Step) {
        switch step {
        case .none: return
        case .drain:
            manager.stopping()
            if isFirst { events.note(.draining(streams: connectionCount, seconds: configuration.drainSeconds)) }
            host.drain()
        case .close:
            manager.stopping()
            if isFirst, connectionCount > 0, configuration.stream == nil { events.note(.connectionsReset(connectionCount)) }
            host.sayGoodbye()
        case .stop: return
        }
        timers.set(Operation.stopping.token(), at: stopping.nextTimeout.nanoseconds)
    }
}
