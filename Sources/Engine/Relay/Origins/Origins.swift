import Control
import Glibc
import Loop
import Time
import Tunnel
import Wire

/// Where the streams that the peer opens lead, by target: each dials its origin, whose addresses race (`AddressRace`) within one deadline.
/// On a server they are those of its mappings and of destinations, on a client those of reverse mappings.
final class Origins {
    /// One that was removed keeps its place: connects to it may be under way.
    private struct Entry {
        var mapping: Mapping
        var name: ResolvedName
        var isRemoved = false
        /// What a client's program asked for; no mapping's origin.
        var destination: Destination?
        /// Whose next connect may start. It does when the turn's bytes have all been read, so that a stream that is
        /// reset in the same breath costs no connect.
        var waiting: [Opening] = []
        /// Openings that wait for the name's addresses.
        var asking: [Opening] = []
        /// Connects.
        var underWay = 0
    }

    /// A user who waits for a connection.
    final class Opening {
        let user: UInt32
        let place: UInt16
        fileprivate var race: AddressRace<Address>
        fileprivate var attempts: [Attempt] = []
        /// Why attempts failed; the last that says more than that nobody answered.
        fileprivate var error: SystemError?
        /// Its timer for the next step is set.
        fileprivate var isTimed = false
        /// The session whose user has chosen the destination. Nil: the mapping has.
        fileprivate var chosenBy: Session?
        /// Its destination has an address to which no rule leads.
        fileprivate var forbidden: Address?
        /// There is a connection, or nobody wants one any more.
        fileprivate var isOver = false

        fileprivate init(_ user: UInt32, _ place: UInt16, _ race: AddressRace<Address>) {
            self.user = user
            self.place = place
            self.race = race
        }
    }

    /// One connect. It outlives the user's wish by the time that the ring takes to cancel it.
    fileprivate final class Attempt {
        let token: Token
        let fd: Int32
        let address: Address
        let startedAt: UInt64
        let opening: Opening

        init(_ token: Token, _ fd: Int32, _ address: Address, _ startedAt: UInt64, _ opening: Opening) {
            self.token = token
            self.fd = fd
            self.address = address
            self.startedAt = startedAt
            self.opening = opening
        }
    }

    unowned(unsafe) private let relay: RelayProcess
    private var entries: [Entry] = []
    private var places: [UInt64: UInt16] = [:]
    /// Those of destinations, and of all users whose programs choose them.
    private var destinations: [Destination: UInt16] = [:]
    private var destinationsPlace: UInt16?
    /// Users who wait for a connection to a destination.
    private var chosenCount = 0
    /// Where the search for a free place goes on.
    private var nextFree = 0
    /// Of those that were not removed, for a person.
    private var names: [String] = []
    private var attempts = SlotTable<Attempt>()
    /// Of all.
    private var waitingCount = 0
    /// Room for those who wait next.
    private var spare: [Opening] = []
    /// Those whose connect the ring had no room for, and when it is asked again: never in this turn.
    private var refused: [Opening] = []
    private var retryAt: UInt64 = 0

    init(_ relay: RelayProcess) { self.relay = relay }

    // MARK: Names

    /// All that there are from now on. Returns those that are new or changed, and why others cannot be had.
    func set(_ mappings: [Mapping]) -> (changed: [Mapping], faults: [StartFault]) {
        let wanted = Set(mappings.map(\.name))
        for place in entries.indices where !wanted.contains(entries[place].mapping.name) { entries[place].isRemoved = true }
        defer { names = Array(self.mappings.lazy.map(\.name).prefix(Origins.namesToldMaximum)) }
        var faults: [StartFault] = []
        let changed = mappings.filter { mapping in
            do throws(StartFault) { return try set(mapping) } catch {
                faults.append(error)
                return false
            }
        }
        return (changed, faults)
    }

    /// Another configuration names these. Returns what could not be done.
    func apply(_ mappings: [Mapping]) -> [StartFault] {
        let names = Set(mappings.map(\.name))
        for mapping in self.mappings where relay.isFirst && !names.contains(mapping.name) { relay.events.note(.mappingRemoved(mapping)) }
        let before = self.mappings.count
        let (changed, faults) = set(mappings)
        for mapping in relay.isFirst ? changed : [] { relay.events.note(.originSet(mapping)) }
        lookUp()
        if !changed.isEmpty || self.mappings.count != before { relay.client?.handleOriginsChanged() }
        return faults
    }

    /// Names that a person is told of at a time.
    private static let namesToldMaximum = 20

    private func set(_ mapping: Mapping) throws(StartFault) -> Bool {
        guard let place = places[mapping.target].map(Int.init), entries[place].mapping.name == mapping.name else {
            let place = try freePlace(mapping)
            places[mapping.target] = UInt16(place)
            let entry = Entry(mapping: mapping, name: ResolvedName(mapping.address))
            if place == entries.count { entries.append(entry) } else { entries[place] = entry }
            relay.ledger?.isConfigurationTouched = true
            return true
        }
        defer { entries[place].isRemoved = false }
        guard entries[place].mapping != mapping else { return entries[place].isRemoved }
        entries[place].mapping = mapping
        relay.ledger?.isConfigurationTouched = true
        entries[place].name = ResolvedName(mapping.address)
        // Openings that wait for the old name's addresses wait for the new name's.
        for opening in entries[place].asking { opening.race.handleRenamed() }
        waitAgain(place)
        return true
    }

    /// One that was removed gives its place away late: streams that it has still name it.
    private func freePlace(_ mapping: Mapping) throws(StartFault) -> Int {
        guard entries.count >= Origins.placesMaximum else { return entries.count }
        for _ in entries.indices {
            let place = nextFree
            nextFree = (nextFree + 1) % entries.count
            let entry = entries[place]
            guard entry.isRemoved, place != destinationsPlace.map(Int.init), entry.underWay == 0, entry.waiting.isEmpty, entry.asking.isEmpty,
                !entry.name.isLookingUp
            else { continue }
            if let destination = entry.destination {
                destinations[destination] = nil
            } else {
                places[entry.mapping.target] = nil
            }
            return place
        }
        throw StartFault(.other, "no place is left for the origin \(mapping.name)", hint: "restart tele: reloads have named too many")
    }

    private static let placesMaximum = MappingPlace.countMaximum

    var mappings: [Mapping] { entries.filter { !$0.isRemoved }.map(\.mapping) }

    /// That of the place. Nil: there is no such place.
    var placeCount: Int { entries.count }

    func mapping(at index: Int) -> Mapping? { index < entries.count ? entries[index].mapping : nil }

    /// The place is that of users whose programs choose their destinations.
    func isOfDestinations(_ index: Int) -> Bool { destinationsPlace.map(Int.init) == index }

    /// The place of the origin of this name; one that is there no more gets one, as if it had been removed just now.
    func place(of name: String, address: HostPort?) -> MappingPlace? {
        if name == Origins.destinationsName { return placeOfDestinations().map { .origin(Int($0)) } }
        let mapping = Mapping(name: name, address: address ?? HostPort(host: "", port: 0))
        if let place = places[mapping.target], entries[Int(place)].mapping.name == name { return .origin(Int(place)) }
        guard (try? set(mapping)) == true, let place = places[mapping.target] else { return nil }
        entries[Int(place)].isRemoved = true
        return .origin(Int(place))
    }

    var knownAddresses: [(String, [Address])] {
        entries.filter { !$0.isRemoved && !$0.name.addresses.isEmpty }.prefix(Mapping.countMaximum).map { ("\($0.name.name)", $0.name.addresses) }
    }

    func know(_ addresses: [(String, [Address])]) {
        let known = Dictionary(addresses) { first, _ in first }
        for entry in entries { if let addresses = known["\(entry.name.name)"] { entry.name.know(addresses) } }
    }

    /// Looks up what has no address yet.
    func lookUp() {
        for place in entries.indices where entries[place].name.addresses.isEmpty { lookUpIfUseful(UInt16(place)) }
    }

    /// Some name has no address, and its answer is awaited.
    var isLookingUp: Bool { entries.contains { $0.name.addresses.isEmpty && $0.name.isLookingUp } }

    private func lookUpIfUseful(_ place: UInt16) {
        entries[Int(place)].name.lookUpIfUseful(relay, .originLookup, UInt32(place))
    }

    /// A user needs the answer.
    private func ask(for opening: Opening) {
        // A peer may open and reset streams for as long as a name server is silent.
        if entries[Int(opening.place)].asking.count > Policy.connectsMaximum + 2 * relay.locals.count {
            entries[Int(opening.place)].asking.removeAll(where: \.isOver)
        }
        entries[Int(opening.place)].asking.append(opening)
        askIfTime(opening.place)
    }

    private func askIfTime(_ place: UInt16) {
        let name = entries[Int(place)].name
        if relay.now >= name.nextQuestion { return name.lookUp(relay, .originLookup, UInt32(place)) }
        if !name.isLookingUp { relay.timers.set(Operation.originQuestion.token(UInt32(place)), at: name.nextQuestion) }
    }

    func handleQuestionDue(_ token: Token) {
        if !entries[Int(token.index)].asking.isEmpty { askIfTime(UInt16(token.index)) }
    }

    func handleLookup(_ answer: Resolver.Answer) {
        let place = Int(Token(rawValue: answer.token).index)
        // Of a name that was replaced meanwhile it is the old answer: asked for again when it is needed.
        guard place < entries.count, answer.name == entries[place].mapping.address else { return }
        let news = entries[place].name.take(answer)
        if case .failed(let reason) = news { relay.events.note(.nameUnresolved(entries[place].mapping.address, reason: reason)) }
        for opening in entries[place].asking {
            if case .failed = news {
                opening.race.handleNoAnswer(now: relay.instant)
            } else {
                opening.race.handleAddresses(entries[place].name.addresses, now: relay.instant)
            }
        }
        waitAgain(place)
    }

    private func waitAgain(_ place: Int) {
        waitingCount += entries[place].asking.count
        entries[place].waiting += entries[place].asking
        entries[place].asking = []
    }

    // MARK: Streams

    /// The peer opened a stream.
    func open(_ session: Session, _ slot: StreamSlot, target: UInt64) {
        let permissions = relay.configuration.permissions
        let isChosen = target == Specification.destinationTarget && !permissions.destinations(of: session.peerName).isEmpty
        guard let place = isChosen ? placeOfDestinations() : places[target], isChosen || !entries[Int(place)].isRemoved else {
            return refuse(session, slot, target)
        }
        if !isChosen {
            guard permissions.allow(session.peerName, mapping: entries[Int(place)].mapping.name) else {
                relay.events.note(.mappingForbidden(session, entries[Int(place)].mapping))
                return session.endpoint.reset(slot, .forbidden, now: relay.instant)
            }
            lookUpIfUseful(place)
        }
        guard relay.locals.hasRoom else { return session.endpoint.reset(slot, .tooMany, now: relay.instant) }
        let index = relay.locals.add(fd: nil, session, slot, mapping: .origin(Int(place)))
        session.endpoint.adopt(slot, owner: index)
        begin(index)
    }

    /// Dials for a user who has no connection.
    func begin(_ index: UInt32) {
        let place = UInt16(relay.locals[index].pointee.mapping.index)
        guard place != destinationsPlace else { return relay.destinations.awaitHead(index) }
        dial(index, place)
    }

    private func dial(_ index: UInt32, _ place: UInt16, chosenBy session: Session? = nil) {
        let name = entries[Int(place)].name
        let opening = Opening(index, place, AddressRace(name.addresses, isFixed: name.isNumeric && !name.addresses.isEmpty))
        opening.chosenBy = session
        chosenCount += session == nil ? 0 : 1
        session?.chosenCount += 1
        relay.locals[index].pointee.opening = .passRetained(opening)
        // Waiting for its turn counts: the user is told in time.
        relay.timers.set(relay.locals.token(index, .originDeadline), at: relay.now + Policy.originMaximum.nanoseconds)
        wait(opening)
    }

    // MARK: Destinations

    /// No mapping can be called so.
    private static let destinationsName = "destination:"
    /// Places of destinations that were asked for, in use or not.
    private static let destinationsMaximum = 4096

    /// The place of all users whose programs choose their destinations.
    private func placeOfDestinations() -> UInt16? {
        if let destinationsPlace { return destinationsPlace }
        let mapping = Mapping(name: Origins.destinationsName, address: HostPort(host: "", port: 0))
        destinationsPlace = add(mapping, nil)
        return destinationsPlace
    }

    private func place(of destination: Destination) -> UInt16? {
        if let place = destinations[destination] { return place }
        let mapping = Mapping(name: "\(destination)", address: HostPort(host: destination.hostText, port: destination.port))
        guard let place = add(mapping, destination) else { return nil }
        destinations[destination] = place
        return place
    }

    /// Nil: no place is free.
    private func add(_ mapping: Mapping, _ destination: Destination?) -> UInt16? {
        if destinations.count >= Origins.destinationsMaximum {
            // One that nobody is dialling gives way.
            guard let idle = destinations.first(where: { isIdle(Int($0.value)) }) else { return nil }
            destinations[idle.key] = nil
            relay.ledger?.isConfigurationTouched = true
            entries[Int(idle.value)] = Entry(mapping: mapping, name: ResolvedName(mapping.address, isChosen: true), isRemoved: true, destination: destination)
            return idle.value
        }
        guard let place = try? freePlace(mapping) else { return nil }
        let entry = Entry(mapping: mapping, name: ResolvedName(mapping.address, isChosen: true), isRemoved: true, destination: destination)
        if place == entries.count { entries.append(entry) } else { entries[place] = entry }
        relay.ledger?.isConfigurationTouched = true
        return UInt16(place)
    }

    private func isIdle(_ place: Int) -> Bool {
        let entry = entries[place]
        return entry.underWay == 0 && entry.waiting.isEmpty && entry.asking.isEmpty && !entry.name.isLookingUp
    }

    /// Where the user's program wants to go is known.
    func dial(_ index: UInt32, _ session: Session, to destination: Destination) {
        // Half of what others leave: whoever asks for silent hosts keeps nobody else out.
        guard session.chosenCount < (Origins.destinationsMaximum - (chosenCount - session.chosenCount)) / 2, let place = place(of: destination) else {
            return refuse(index, .tooMany)
        }
        lookUpIfUseful(place)
        dial(index, place, chosenBy: session)
    }

    func refuse(_ index: UInt32, _ code: ResetCode) {
        let user = relay.locals[index]
        guard let session = user.pointee.session?.takeUnretainedValue() else { return }
        relay.timers.cancel(relay.locals.token(index, .originDeadline))
        session.endpoint.reset(user.pointee.slot, code, now: relay.instant)
        relay.sessions.markDirty(session)
        relay.locals.close(index, .reset)
    }

    // MARK: Handing over

    /// No connect begins before `resume`.
    func suspend() { relay.locals.table.forEach { index, _ in forget(index) } }

    /// Dials for those who wait for it.
    func resume() {
        relay.locals.table.forEach { index, user in
            if user.pointee.life.phase == .connecting, user.pointee.opening == nil { begin(index) }
        }
    }

    /// A connect is under way.
    var isConnecting: Bool { attempts.count > 0 }

    // MARK: Connects

    private func wait(_ opening: Opening) {
        entries[Int(opening.place)].waiting.append(opening)
        waitingCount += 1
    }

    private func refuse(_ session: Session, _ slot: StreamSlot, _ target: UInt64) {
        session.endpoint.reset(slot, .unknownTarget, now: relay.instant)
        relay.events.note(.targetUnknown(session, target: target, known: names))
    }

    /// Starts connects while few are under way to the same origin: one that is silent keeps nobody from the others.
    func connectWaiting() {
        relay.destinations.read()
        if !refused.isEmpty, relay.now >= retryAt {
            let again = refused
            refused = []
            for opening in again where !opening.isOver { wait(opening) }
        }
        guard waitingCount > 0 else { return }
        for place in entries.indices where !entries[place].waiting.isEmpty { connectWaiting(place) }
    }

    private func connectWaiting(_ place: Int) {
        // Openings that fail meanwhile are queued behind the others.
        var waiting = entries[place].waiting
        entries[place].waiting = spare
        spare = []
        var next = 0
        while next < waiting.count, entries[place].underWay < Policy.connectsMaximum {
            if !waiting[next].isOver { advance(waiting[next]) }
            next += 1
        }
        waitingCount -= next
        guard next < waiting.count else {
            waiting.removeAll(keepingCapacity: true)
            spare = waiting
            return
        }
        entries[place].waiting = Array(waiting[next...]) + entries[place].waiting
        // Streams that were reset meanwhile: behind a silent origin they would gather.
        guard entries[place].waiting.count > Policy.connectsMaximum + 2 * relay.locals.count else { return }
        let before = entries[place].waiting.count
        entries[place].waiting.removeAll(where: \.isOver)
        waitingCount -= before - entries[place].waiting.count
    }

    /// Does what the race says, until it wants to wait.
    private func advance(_ opening: Opening) {
        while !opening.isOver {
            switch opening.race.next(now: relay.instant) {
            case .connect(let address):
                guard connect(opening, address) else { return }
            case .lookUp:
                return ask(for: opening)
            case .wait(let until):
                if opening.isTimed || until != .never { time(opening, until) }
                return
            case .failed:
                return fail(opening.user, opening.error ?? SystemError(EHOSTUNREACH))
            }
        }
    }

    private func time(_ opening: Opening, _ until: Instant) {
        let timer = relay.locals.token(opening.user, .originAttempt)
        if until == .never { relay.timers.cancel(timer) } else { relay.timers.set(timer, at: until.nanoseconds) }
        opening.isTimed = until != .never
    }

    /// False: the ring had no room.
    private func connect(_ opening: Opening, _ address: Address) -> Bool {
        // A second attempt must not take the descriptors that are reserved for carriers.
        guard opening.attempts.isEmpty || relay.locals.count + attempts.count < relay.locals.maximum else {
            attemptFailed(opening, SystemError(EMFILE))
            return true
        }
        // The address that is judged is the one that is dialled.
        if let destination = entries[Int(opening.place)].destination, !isPermitted(opening.user, destination, address) {
            opening.forbidden = address
            attemptFailed(opening, SystemError(EACCES))
            return true
        }
        let fd: Int32
        do throws(SystemError) { fd = try Socket.dialling(address) } catch {
            attemptFailed(opening, error)
            return true
        }
        Socket.abortOnClose(fd)
        let attempt = attempts.insert { index, generation in
            Attempt(Operation.originConnect.token(index, generation), fd, address, relay.now, opening)
        }
        guard relay.loop.connect(fd, address, attempt.token) else {
            attempts.remove(attempt.token.index)
            relay.loop.close(fd)
            opening.race.attemptRefused(address)
            refused.append(opening)
            retryAt = relay.now + Policy.retryDelay.nanoseconds
            relay.locals.retryLater(opening.user)
            return false
        }
        entries[Int(opening.place)].underWay += 1
        opening.attempts.append(attempt)
        return true
    }

    private func isPermitted(_ user: UInt32, _ destination: Destination, _ address: Address) -> Bool {
        guard let session = relay.locals[user].pointee.session?.takeUnretainedValue() else { return false }
        return relay.configuration.permissions.destinations(of: session.peerName).permits(destination, Array(address.host))
    }

    /// What the user's client may not do any more ends: a mapping that was taken from it, or, when it may go nowhere, a destination. Which
    /// destinations are left is judged when the next connection is made.
    func isAllowed(_ user: UnsafeMutablePointer<LocalSocket>, _ session: Session) -> Bool {
        let permissions = relay.configuration.permissions
        let place = user.pointee.mapping.index
        guard !isOfDestinations(place) else { return !permissions.destinations(of: session.peerName).isEmpty }
        return permissions.allow(session.peerName, mapping: entries[place].mapping.name)
    }

    private func attemptFailed(_ opening: Opening, _ error: SystemError) {
        opening.race.attemptFailed(now: relay.instant)
        if error.code != ETIMEDOUT || opening.error == nil { opening.error = error }
    }

    /// A connect ended, with a connection or without.
    func handleConnected(_ token: Token, _ error: SystemError?) {
        guard let attempt = attempts.find(token) else { return }
        attempts.remove(token.index)
        let opening = attempt.opening
        entries[Int(opening.place)].underWay -= 1
        guard !opening.isOver else { return relay.loop.close(attempt.fd) }
        opening.attempts.removeAll { $0 === attempt }
        if let error = Socket.ending(ofConnect: attempt.fd, to: attempt.address, error) {
            relay.loop.close(attempt.fd)
            attemptFailed(opening, error)
            return wait(opening)
        }
        forget(opening.user)
        entries[Int(opening.place)].name.prefer(attempt.address)
        relay.events.note(.originConnected(after: relay.age(of: attempt.startedAt)))
        relay.locals.connected(opening.user, fd: attempt.fd)
        // What the stream began with was for us.
        if let destination = entries[Int(opening.place)].destination { relay.locals.writer.drop(opening.user, destination.head.count) }
    }

    /// The connection is no longer wanted.
    func forget(_ user: UInt32) {
        guard let opening = relay.locals[user].pointee.opening?.takeRetainedValue() else { return }
        relay.locals[user].pointee.opening = nil
        opening.isOver = true
        chosenCount -= opening.chosenBy == nil ? 0 : 1
        opening.chosenBy?.chosenCount -= 1
        relay.timers.cancel(relay.locals.token(user, .originDeadline))
        if opening.isTimed { relay.timers.cancel(relay.locals.token(user, .originAttempt)) }
        for attempt in opening.attempts { relay.loop.cancel(attempt.fd) }
        opening.attempts = []
    }

    private func opening(_ token: Token) -> Opening? { relay.locals.find(token)?.pointee.opening?.takeUnretainedValue() }

    func handleAttemptDue(_ token: Token) {
        guard let opening = opening(token) else { return }
        opening.isTimed = false
        wait(opening)
    }

    func handleDeadline(_ token: Token) {
        if let user = relay.locals.find(token), user.pointee.lists.contains(.unnamed) { return refuse(token.index, .timedOut) }
        guard let opening = opening(token) else { return }
        fail(token.index, opening.attempts.isEmpty ? opening.error ?? SystemError(ETIMEDOUT) : SystemError(ETIMEDOUT))
    }

    private func fail(_ index: UInt32, _ error: SystemError) {
        let user = relay.locals[index]
        guard let session = user.pointee.session?.takeUnretainedValue() else { return }
        let opening = user.pointee.opening?.takeUnretainedValue()
        let place = opening.map { Int($0.place) } ?? user.pointee.mapping.index
        if let destination = entries[place].destination, let address = opening?.forbidden, error.code == EACCES {
            relay.events.note(.destinationForbidden(session, destination, address: address))
            return refuse(index, .forbidden)
        }
        let code: ResetCode =
            switch error.code {
            case ECONNREFUSED, ECONNRESET: .refused
            case ETIMEDOUT: .timedOut
            case EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL, EAGAIN: .tooMany
            default: .unreachable
            }
        relay.events.note(.originUnreachable(session, entries[place].mapping, error))
        session.endpoint.reset(user.pointee.slot, code, now: relay.instant)
        relay.sessions.markDirty(session)
        relay.locals.close(index, .reset)
    }
}
