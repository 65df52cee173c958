import Loop
import Time
import Tunnel

/// The sockets that this process listens on, each with what it is for. One accept is under way on each, while there is
/// room.
final class Listeners {
    /// What a listener is for.
    enum Purpose: Equatable {
        case users(Mapping)
        case carriers
        /// Status and metrics. `isPrivileged`: commands as well.
        case admin(isPrivileged: Bool)

        var mapping: Mapping? { if case .users(let mapping) = self { mapping } else { nil } }
        /// It goes on while the process drains.
        var outlivesDrain: Bool { if case .admin = self { true } else { false } }
    }

    /// Whether a connection may be accepted.
    enum Readiness {
        case ready
        /// There is no room: later, perhaps in the next turn.
        case full
        /// Nobody serves it yet. `until`: then connections are refused.
        case unserved(until: UInt64?)
    }

    fileprivate enum State {
        /// No accept is under way: there is no room for another connection, or none was started yet.
        case waiting
        /// An accept is under way.
        case accepting
        /// Accepting failed; its timer starts the next attempt.
        case paused
        /// Nobody serves it; whoever connects waits in the kernel's queue. Its timer, if it has one, ends that.
        case unserved
        /// It is closed, and an accept under way holds its descriptor.
        case closing
        /// The place is free.
        case gone

        var isClosed: Bool { self == .closing || self == .gone }
    }

    struct Entry {
        let fd: Int32
        /// As it is, also where the kernel chose the port.
        let address: Address
        var purpose: Purpose
        fileprivate var state = State.waiting
        /// Others have it open too, and go on listening.
        fileprivate var isShared = false
        /// The file of a Unix-domain socket that goes with it.
        fileprivate var path: String?
        fileprivate let socket: ListeningSocket?

        /// Without a socket: it is gone, or another loop's.
        fileprivate static func absent(_ purpose: Purpose) -> Entry {
            Entry(fd: -1, address: Address(path: ""), purpose: purpose, state: .gone, socket: nil)
        }
    }

    unowned(unsafe) let relay: RelayProcess
    private var entries: [Entry] = []
    /// Where the search for a free place goes on.
    private var nextFree = 0
    /// Some listener waits for room.
    private var isHeldBack = false
    private var isArmed = false
    /// Connections that a process accepted that died. They wait as in the kernel's queue.
    private var adopted: [(fd: Int32, index: Int)] = []

    init(_ relay: RelayProcess) { self.relay = relay }

    func add(_ socket: ListeningSocket, _ purpose: Purpose) {
        var entry = Entry(fd: socket.fd, address: socket.address, purpose: purpose, socket: socket)
        entry.isShared = socket.isAdopted
        entry.path = socket.isAdopted ? nil : socket.address.path
        // Whoever is accepted has it from the listener: a user whose connection ends with this process is not told that it ended in order.
        if relay.ledger != nil, purpose.mapping != nil { Socket.abortOnClose(socket.fd) }
        // Users of a mapping that was removed still name its place: it is taken again late.
        if let free = freePlace() { entries[free] = entry } else { entries.append(entry) }
        relay.ledger?.isConfigurationTouched = true
        relay.member?.lead?.handlePlacesChanged()
        isArmed = false
    }

    private func freePlace() -> Int? {
        guard entries.count >= MappingPlace.countMaximum else { return nil }
        for _ in entries.indices {
            nextFree = (nextFree + 1) % entries.count
            if entries[nextFree].state == .gone { return nextFree }
        }
        return nil
    }

    /// Places that mappings have or had.
    var placeCount: Int { entries.count }

    /// The mapping by its place, which a user socket keeps. Its listener may be closed already.
    func mapping(at place: Int) -> Mapping? { place < entries.count ? entries[place].purpose.mapping : nil }

    /// Where carriers come.
    var carrierAddress: Address? { entries.first { !$0.state.isClosed && $0.purpose == .carriers }?.address }

    /// Where the users of each mapping connect, by its name.
    var addresses: [String: Address] {
        entries.reduce(into: [:]) { result, entry in
            if !entry.state.isClosed, let mapping = entry.purpose.mapping, result[mapping.name] == nil { result[mapping.name] = entry.address }
        }
    }

    /// What is listened for. A name may be listened for in two ways while it is changed.
    var mappings: [Mapping] {
        var seen: [String: [Mapping]] = [:]
        return entries.compactMap { entry in
            guard !entry.state.isClosed, let mapping = entry.purpose.mapping, seen[mapping.name]?.contains(mapping) != true else { return nil }
            seen[mapping.name, default: []].append(mapping)
            return mapping
        }
    }

    /// Accepts wherever nothing is under way and there is room. Cheap when there is nothing to do: called each turn.
    func arm() {
        guard isHeldBack || !isArmed else { return }
        isArmed = true
        isHeldBack = false
        for index in entries.indices { arm(index) }
    }

    /// Cancels all accepts. While the process is handed over none begins before `resume`: new connections wait in the kernel's backlog.
    func suspend() {
        for entry in entries where entry.state == .accepting { relay.loop.cancel(entry.fd) }
    }

    /// No accept is under way.
    var isQuiet: Bool { !entries.contains { $0.state == .accepting || $0.state == .closing } }

    func resume() { isHeldBack = true }

    private func readiness(_ purpose: Purpose) -> Readiness {
        guard !relay.handover.isUnderWay else { return .full }
        if purpose.outlivesDrain { return .ready }
        if let mapping = purpose.mapping, let server = relay.server { return server.reverse.readiness(mapping) }
        if let lead = relay.member?.lead { return relay.stopping.isRunning && lead.hasRoom ? .ready : .full }
        return relay.host.mayAccept(purpose) ? .ready : .full
    }

    /// Others serve users now, or nobody does.
    func handleReadinessChanged() {
        for index in entries.indices where entries[index].purpose.mapping != nil {
            switch entries[index].state {
            case .unserved:
                relay.timers.cancel(Operation.acceptPause.token(UInt32(index)))
                entries[index].state = .waiting
                isHeldBack = true
            case .accepting:
                if case .unserved = readiness(entries[index].purpose) { relay.loop.cancel(entries[index].fd) }
            case .waiting, .paused, .closing, .gone: break
            }
        }
    }

    private func arm(_ index: Int) {
        guard entries[index].state == .waiting else { return }
        switch readiness(entries[index].purpose) {
        case .ready:
            while let fd = takeAdopted(index) {
                accepted(fd, index)
                guard entries[index].state == .waiting, case .ready = readiness(entries[index].purpose) else { return isHeldBack = true }
            }
        case .full:
            isHeldBack = true
            return
        case .unserved(let until):
            entries[index].state = .unserved
            if let until { relay.timers.set(Operation.acceptPause.token(UInt32(index)), at: until) }
            return
        }
        guard relay.loop.accept(entries[index].fd, Operation.accept.token(UInt32(index))) else { return pause(index) }
        entries[index].state = .accepting
    }

    private func pause(_ index: Int, for duration: Interval = Policy.acceptPause) {
        entries[index].state = .paused
        relay.timers.set(Operation.acceptPause.token(UInt32(index)), at: relay.now + duration.nanoseconds)
    }

    func handlePauseOver(_ token: Token) {
        let index = Int(token.index)
        guard entries[index].state == .paused || entries[index].state == .unserved else { return }
        entries[index].state = .waiting
        arm(index)
    }

    func handle(_ completion: Completion) {
        let index = Int(completion.token.index)
        guard entries[index].state == .accepting else {
            if completion.error == nil {
                Socket.abortOnClose(completion.result)
                relay.loop.close(completion.result)
            }
            return release(index)
        }
        entries[index].state = .waiting
        if let error = completion.error {
            if error.isShortage {
                relay.events.note(.cannotAccept(error))
                guard entries[index].purpose == .carriers else { return pause(index) }
                relay.server?.makeRoom()
                return pause(index, for: Policy.givingWay)
            }
        } else {
            accepted(completion.result, index)
            acceptMore(index)
        }
        arm(index)
    }

    /// A crowd waits in the kernel's queue: one turn of the loop for each would be the longest part of its way.
    private func acceptMore(_ index: Int) {
        // What the ring does not accept no successor would know of.
        guard relay.ledger == nil else { return }
        for _ in 1..<Policy.acceptsAtOnce {
            guard !entries[index].state.isClosed, case .ready = readiness(entries[index].purpose),
                let fd = Socket.accept(entries[index].fd)
            else { return }
            accepted(fd, index)
        }
    }

    /// Connections that a process accepted which died, and that nobody serves yet.
    var hasAdopted: Bool { !adopted.isEmpty }

    /// A connection that another process accepted from the listener of this descriptor, and died.
    func adopt(_ fd: Int32, from listener: Int32) {
        guard let index = entries.firstIndex(where: { $0.fd == listener && !$0.state.isClosed }) else {
            Socket.abortOnClose(fd)
            return relay.loop.close(fd)
        }
        adopted.append((fd, index))
        relay.ledger?.hold(accepted: fd, from: listener)
        isArmed = false
    }

    /// The accepts of a ring whose process died are ended by the kernel at its leisure. Until then one of them may get the word of a connection
    /// that was meant for ours (the wait for an accept is exclusive), so ours look again, a few times.
    func lookAgain(_ round: Int = 0) {
        if round > 0 { suspend() }
        guard round < Policy.looksAfterDeath.count else { return }
        relay.timers.set(Operation.acceptAnew.token(UInt32(round)), at: relay.now + Policy.looksAfterDeath[round].nanoseconds)
    }

    private func takeAdopted(_ index: Int) -> Int32? {
        guard !adopted.isEmpty, let first = adopted.firstIndex(where: { $0.index == index }) else { return nil }
        let fd = adopted.remove(at: first).fd
        relay.ledger?.release(accepted: fd)
        return fd
    }

    private func accepted(_ fd: Int32, _ index: Int) {
        switch entries[index].purpose {
        case .users(let mapping):
            if relay.client != nil, relay.member?.lead?.give(fd, at: index) == true { return }
            relay.host.handleAccepted(fd, mapping, UInt16(index))
        case .carriers:
            if relay.member?.lead?.give(fd, at: index) == true { return }
            relay.host.handleAccepted(fd, nil, UInt16(index))
        case .admin(let isPrivileged): relay.admin.handleAccepted(fd, isPrivileged: isPrivileged)
        }
    }

    /// The sockets of mappings serve others from now on: by name, what they become.
    func replace(_ changes: [String: Mapping]) {
        guard !changes.isEmpty else { return }
        for index in entries.indices where !entries[index].state.isClosed {
            if let old = entries[index].purpose.mapping, let new = changes[old.name] { entries[index].purpose = .users(new) }
        }
        relay.member?.lead?.handlePlacesChanged()
        relay.ledger?.isConfigurationTouched = true
    }

    /// Links changed: a listener on a link that was made anew moves to the new one.
    func renewLinks() {
        for index in entries.indices where !entries[index].state.isClosed {
            guard let fresh = entries[index].socket?.renewed() else { continue }
            let purpose = entries[index].purpose
            close(index)
            add(fresh, purpose)
        }
    }

    // MARK: Handing over

    /// All open listeners, for the new program.
    var inherited: [Inheritance.Listener] {
        entries.compactMap { entry in
            guard !entry.state.isClosed else { return nil }
            let (kind, name, address): (Inheritance.Listener.Kind, String, HostPort?) =
                switch entry.purpose {
                case .users(let mapping): (.users, mapping.name, mapping.address)
                case .carriers: (.carriers, "", relay.configuration.output)
                case .admin(isPrivileged: true): (.control, "", relay.configuration.control.map { HostPort(path: $0) })
                case .admin(isPrivileged: false): (.metrics, "", relay.configuration.metrics)
                }
            guard let address else { return nil }
            return Inheritance.Listener(
                fd: entry.fd, kind: kind, name: name, address: "\(address)", isShared: entry.isShared,
                link: entry.socket?.linkName.map { "\($0)" } ?? "")
        }
    }

    // MARK: Several loops

    /// What the loops that do not listen need to know.
    var mappingsByPlace: [Mapping?] { entries.map(\.purpose.mapping) }

    /// Of a loop that does not listen: the mappings of the first one's listeners.
    func mirror(_ mappings: [Mapping?]) {
        let known = mappings.map { Entry.absent($0.map { .users($0) } ?? .carriers) }
        entries.replaceSubrange(0..<min(entries.count, known.count), with: known)
    }

    /// There may be room again where there was none.
    func lookForRoom() { isHeldBack = isHeldBack || entries.contains { $0.state == .waiting } }

    /// A place for a mapping that has no listener any more, but open connections.
    func place(ofFormer mapping: Mapping) -> MappingPlace? {
        guard entries.count < MappingPlace.countMaximum else { return nil }
        // Places below are the first loop's to give.
        while !relay.isFirst, entries.count < MappingPlace.countMaximum / 2 { entries.append(.absent(.carriers)) }
        entries.append(.absent(.users(mapping)))
        relay.ledger?.isConfigurationTouched = true
        return .listener(entries.count - 1)
    }

    /// The place of the mapping of this name.
    func place(of name: String) -> MappingPlace? { entries.firstIndex { $0.purpose.mapping?.name == name }.map { .listener($0) } }

    // MARK: Ends

    /// No new users and carriers; admin listeners stay open.
    func close() {
        for index in entries.indices where !entries[index].purpose.outlivesDrain { close(index) }
    }

    func closeAll() {
        for index in entries.indices { close(index) }
    }

    /// No new users. Connections that were accepted go on.
    func closeToUsers() {
        for index in entries.indices where entries[index].purpose.mapping != nil { close(index) }
    }

    /// Connections that were accepted go on.
    func close(_ names: Set<String>) {
        guard !names.isEmpty else { return }
        for index in entries.indices {
            if let mapping = entries[index].purpose.mapping, names.contains(mapping.name) { close(index) }
        }
    }

    private func close(_ index: Int) {
        guard !entries[index].state.isClosed else { return }
        if let path = entries[index].path { Socket.removeFile(path) }
        // Connections in a shared socket's queue wait for the next process.
        if !entries[index].isShared { Socket.shutdownListening(entries[index].fd) }
        if entries[index].state == .accepting {
            entries[index].state = .closing
            relay.loop.cancel(entries[index].fd)
        } else {
            relay.timers.cancel(Operation.acceptPause.token(UInt32(index)))
            release(index)
        }
    }

    private func release(_ index: Int) {
        relay.loop.close(entries[index].fd)
        entries[index].state = .gone
        relay.ledger?.isConfigurationTouched = true
    }
}
