import CSlab
import Glibc
import Logging
import Loop
import Tunnel

/// One tele process: the loop, the memory, the tables of everything that lives, and one turn of the wheel.
///
/// A turn: wait; let every completion change state and note who has work; then one send per user socket that has bytes,
/// one gathered send per carrier; then the timers. The client's and the server's own decisions lie in their hosts.
final class Hub {
    let configuration: Configuration
    let log: Logger
    let loop: Loop
    let arena: OpaquePointer
    let resolver: Resolver
    let signals: Signals
    let networkEvents: NetworkEvents?
    var generator = SystemRandomNumberGenerator()

    var users = UserTable()
    var carriers = SlotTable<Carrier>()
    var sessions = SlotTable<SessionHost>()
    var timers = TimerHeap()
    /// Nanoseconds on `Clock`, read once a turn.
    var now: UInt64
    var instant: Instant { Instant(nanoseconds: now) }

    var dirtyUsers: [UInt32] = []
    var dirtySessions: [SessionHost] = []
    /// Who receives next. Armed after this turn's sends are queued, so that what came last is sent while it is still in
    /// the cache.
    var readers: [UInt32] = []
    var carrierReaders: [Carrier] = []
    /// User sockets that may be open at a time: the rest of the descriptors is kept for carriers.
    let maximumUsers: Int
    /// Bytes that all sessions hold for their peers.
    var heldByteCount = 0
    /// Sockets that receive into slabs of their own; more than `maximumHotUsers` share the pool.
    var hotUsers: [UInt32] = []
    let maximumHotUsers: Int

    var client: ClientHost?
    var server: ServerHost?
    var listener: Int32 = -1
    var isAccepting = false
    var isDraining = false
    var isStopped = false
    private var trimmedAt: UInt64 = 0

    /// Scratch for the iovecs and the header of one send.
    let iovecs = UnsafeMutablePointer<iovec>.allocate(capacity: Hub.iovecMaximum)
    let header = UnsafeMutableRawBufferPointer.allocate(byteCount: Endpoint.headerMaximum, alignment: 8)

    static let iovecMaximum = 256
    /// Free memory that stays committed: touching a fresh slab costs more than filling it.
    static let spareByteCount = 32 << 20
    /// Bytes of one send on a carrier.
    static let batchByteCount = 512 << 10
    /// Without a carrier only this much takes its place in the sequence: what waits can still be reordered.
    static let detachedBatchByteCount = 64 << 10
    /// Bytes of one send to a user.
    static let userSendByteCount = 1 << 20
    static let userIovecMaximum = 64

    init(_ configuration: Configuration, log: Logger) throws {
        self.configuration = configuration
        self.log = log
        now = Clock.now()
        do {
            signals = try Signals([SIGTERM, SIGINT, SIGHUP, SIGUSR1])
        } catch {
            throw StartFault(.other, "cannot take signals (\(error))", hint: "is the process restricted by a sandbox?")
        }
        let limit = Descriptors.raiseLimit()
        maximumUsers = max(8, limit - max(16, min(256, limit / 4)))
        maximumHotUsers = max(4, min(64, configuration.bufferByteCount / 8 / Int(SLAB_BYTES)))
        let driver: Loop.Driver = switch configuration.driver {
        case .auto: .auto
        case .uring: .uring
        case .epoll: .epoll
        }
        do {
            loop = try Loop(driver: driver, poolCount: Hub.poolCount, poolByteCount: Hub.poolByteCount)
        } catch {
            throw StartFault(.unavailable, "cannot start the \(configuration.driver.rawValue) driver (\(error))",
                             hint: "use -io=auto, which takes epoll where io_uring is not allowed")
        }
        var opened: OpaquePointer?
        let wanted = configuration.memoryByteCount + configuration.memoryByteCount / 2 + (64 << 20)
        let failed = arena_create(&opened, min(wanted, 64 << 30))
        guard failed == 0, let opened else {
            throw StartFault(.other, "cannot reserve memory (\(SystemError(-failed)))", hint: "try a smaller -memory")
        }
        arena = opened
        resolver = Resolver(wake: loop.waker)
        networkEvents = NetworkEvents()
        if let reason = loop.fallbackReason { log.notice("io_uring not used", metadata: ["reason": "\(reason)"]) }
    }

    deinit {
        arena_destroy(arena)
        iovecs.deallocate()
        header.deallocate()
    }

    // MARK: The wheel

    func run() -> Ending {
        armSignals()
        armNetworkEvents()
        while !isStopped {
            let deadline = timers.nextDeadline
            let before = Clock.now()
            do throws(SystemError) {
                try loop.wait(until: deadline) { completion in
                    if now < before { now = Clock.now() }
                    handle(completion)
                }
            } catch {
                if !error.isShortage {
                    return .failed(StartFault(.other, "the event loop failed (\(error))", hint: "please report this"))
                }
                usleep(10_000)
            }
            now = Clock.now()
            if now - before > 5_000_000_000, let deadline, now > deadline + 5_000_000_000 {
                // The machine slept, or this process was stopped: what we know of the path is old.
                log.notice("woke after a pause", metadata: ["seconds": "\((now - before) / 1_000_000_000)"])
                client?.pathMayHaveChanged()
            }
            for answer in resolver.takeAnswers() {
                client?.handleLookup(answer)
                server?.handleLookup(answer)
            }
            flush()
            while let token = timers.takeExpired(now: now) { handleTimer(token) }
            flush()
            trim()
        }
        return .finished
    }

    /// Memory that a burst needed goes back to the system, a little at a time.
    private func trim() {
        guard now > trimmedAt + 1_000_000_000 else { return }
        trimmedAt = now
        if arena_committed(arena) > arena_used(arena) + Hub.spareByteCount { arena_trim(arena, Hub.spareByteCount / 2) }
    }

    /// Everybody who has work gets one send under way.
    private func flush() {
        var turns = 0
        while !(dirtyUsers.isEmpty && dirtySessions.isEmpty), turns < 4 {
            turns += 1
            var index = 0
            while index < dirtyUsers.count {
                flushUser(dirtyUsers[index])
                index += 1
            }
            dirtyUsers.removeAll(keepingCapacity: true)
            index = 0
            while index < dirtySessions.count {
                let session = dirtySessions[index]
                session.isDirty = false
                if !session.isEnded { pump(session) }
                index += 1
            }
            dirtySessions.removeAll(keepingCapacity: true)
        }
        for index in readers { armReceive(index) }
        readers.removeAll(keepingCapacity: true)
        for carrier in carrierReaders { armReceive(carrier) }
        carrierReaders.removeAll(keepingCapacity: true)
    }

    func markDirty(_ session: SessionHost) {
        guard !session.isDirty else { return }
        session.isDirty = true
        dirtySessions.append(session)
    }

    func markDirty(_ index: UInt32) {
        guard !users[index].pointee.flags.contains(.dirty) else { return }
        users[index].pointee.flags.insert(.dirty)
        dirtyUsers.append(index)
    }

    private func handle(_ completion: Completion) {
        let token = completion.token
        guard let operation = Operation(rawValue: token.kind) else { return }
        switch operation {
        case .userReceivePooled, .userReceive, .userSend, .userWatch, .userConnect:
            handleUser(operation, token, completion)
        case .carrierConnect, .carrierReceive, .carrierSend:
            guard let carrier = carriers.find(token) else { return }
            handleCarrier(operation, carrier, completion)
        case .accept:
            handleAccept(completion)
        case .signals:
            while let number = signals.take() { handleSignal(number) }
            armSignals()
        case .networkEvents:
            networkEvents?.drain()
            client?.pathMayHaveChanged()
            armNetworkEvents()
        default:
            break
        }
    }

    private func handleTimer(_ token: Token) {
        switch Operation(rawValue: token.kind) {
        case .sessionTimeout:
            if let session = sessions.find(token) { handleTimeout(session) }
        case .sessionHold:
            if let session = sessions.find(token) { server?.handleHoldExpired(session) }
        case .carrierDeadline:
            if let carrier = carriers.find(token) { handleDeadline(carrier) }
        case .originDeadline:
            if let user = users.find(token.index, token.generation), user.pointee.flags.contains(.connecting) {
                server?.handleOriginTimeout(token.index)
            }
        case .acceptPause: armAccept()
        case .probe: client?.handleProbeTimer()
        case .drainEnd: if isDraining { stopNow() }
        case .sweep: sweepHotUsers()
        default: break
        }
    }

    private func armSignals() { _ = loop.readable(signals.fd, Operation.signals.token()) }

    private func armNetworkEvents() {
        if let networkEvents { _ = loop.readable(networkEvents.fd, Operation.networkEvents.token()) }
    }

    // MARK: Accepting

    /// Starts an accept unless one is under way or there is no room.
    func armAccept() {
        guard !isAccepting, !isDraining, listener >= 0, mayAccept else { return }
        isAccepting = loop.accept(listener, Operation.accept.token())
        if !isAccepting { timers.add(Operation.acceptPause.token(), at: now + 100_000_000) }
    }

    private var mayAccept: Bool {
        if let client { return users.count < maximumUsers && client.mayAccept }
        return true
    }

    private func handleAccept(_ completion: Completion) {
        isAccepting = false
        if let error = completion.error {
            guard !isDraining else { return }
            if error.isShortage {
                log.warning("cannot accept", metadata: ["reason": "\(error)", "retry": "0.1s"])
                timers.add(Operation.acceptPause.token(), at: now + 100_000_000)
            } else {
                armAccept()
            }
            return
        }
        let fd = completion.result
        if isDraining {
            loop.close(fd)
            return
        }
        client?.handleAccepted(fd)
        server?.handleAccepted(fd)
        armAccept()
    }

    // MARK: Stopping

    private func handleSignal(_ number: Int32) {
        switch number {
        case SIGUSR1: client?.pathMayHaveChanged()
        case SIGHUP: log.notice("nothing to reload")
        case SIGTERM where !isDraining && configuration.drainSeconds > 0: drain()
        default: stopNow()
        }
    }

    /// Takes nothing new and lets what is open end.
    private func drain() {
        isDraining = true
        closeListener()
        log.notice("draining", metadata: ["streams": "\(users.count)", "at-most": "\(configuration.drainSeconds)s",
                                          "again": "ends at once"])
        timers.add(Operation.drainEnd.token(), at: now + UInt64(configuration.drainSeconds) * 1_000_000_000)
        stopIfDrained()
    }

    func stopIfDrained() {
        if isDraining && users.count == 0 { stopNow() }
    }

    /// Tells every peer that the session is over, resets what is open, and ends.
    private func stopNow() {
        guard !isStopped else { return }
        isStopped = true
        closeListener()
        for session in sessions.all {
            session.endpoint.close(client == nil ? .stopping : .done, "the process was told to stop")
            if let carrier = session.carrier { lastWords(session, carrier) }
            abortUsers(of: session)
        }
        // Give the last sends and closes a moment; the peer notices a missing CLOSE all the same, only later.
        let end = Clock.now() + 300_000_000
        while Clock.now() < end, carriers.all.contains(where: \.sendSubmitted) || users.count > 0 {
            now = Clock.now()
            do { try loop.wait(until: min(end, now + 20_000_000)) { handle($0) } } catch { break }
            for session in sessions.all { if let carrier = session.carrier { lastWords(session, carrier) } }
        }
        log.notice("stopped")
    }

    private func lastWords(_ session: SessionHost, _ carrier: Carrier) {
        guard !carrier.sendSubmitted, carrier.state == .established, !session.endpoint.isClosed else { return }
        submitBatch(session, carrier)
    }

    private func closeListener() {
        guard listener >= 0 else { return }
        if isAccepting { loop.cancel(listener) }
        shutdown(listener, Int32(SHUT_RDWR))
        if !isAccepting { loop.close(listener) }
        listener = -1
    }
}
