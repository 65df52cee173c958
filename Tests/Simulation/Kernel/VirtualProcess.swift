import Chance
import Control
import CSlab
import Glibc
import Loop
import Relay
import State

/// A process of a simulation, or a further loop of one: its descriptors, and when it runs next.
final class VirtualProcess {
    unowned let kernel: VirtualKernel
    let host: Int
    private let files: DescriptorTable
    /// The other loops of the process, each with a time of its own.
    private(set) var others: [VirtualProcess] = []
    private let isFirst: Bool
    private var readyNow: [Int32] = []
    private var isReady: Set<Int32> = []
    /// The relay that runs in it; nil: it has ended.
    private(set) var relay: RelayProcess?
    /// An operation was queued that the ring has not seen.
    private var hasQueued = false
    /// Operations that were queued, or refused, in this iteration.
    private var queuedCount = 0
    /// The ring has no room until then.
    var refusesUntil: UInt64 = 0
    /// It is stopped, or gets no time, until then.
    var frozenUntil: UInt64 = 0
    /// Nanoseconds for which its machine slept.
    private(set) var slept: UInt64 = 0
    /// Most nanoseconds between a reason to run and running.
    var delayMaximum = 20_000
    private var nextRun: UInt64?
    private var runNumber = 0
    private(set) var iterations = 0
    /// The most that local sockets ever brought beyond the budget, in bytes.
    private(set) var overdraftPeak = 0
    /// What was under way when the budget filled up: a pipe that was being filled, or receives.
    private static let overdraftMaximum = 320 << 10
    /// How it ended by itself.
    private(set) var ending: Ending?

    init(_ kernel: VirtualKernel, host: Int) {
        self.kernel = kernel
        self.host = host
        isFirst = true
        files = DescriptorTable(maximum: kernel.limits.descriptors)
        files.serve(self)
    }

    private init(loopOf first: VirtualProcess) {
        (kernel, host, files, delayMaximum) = (first.kernel, first.host, first.files, first.delayMaximum)
        isFirst = false
        files.serve(self)
    }

    var loops: [VirtualProcess] { others.isEmpty ? [self] : [self] + others }
    var lastFrozenUntil: UInt64 { loops.reduce(0) { max($0, $1.frozenUntil) } }

    // MARK: Descriptors

    var descriptorCount: Int { files.count }

    func open(_ file: VirtualFile) -> Int32 { files.open(file) }

    func file(_ descriptor: Int32) -> VirtualFile? { files.file(descriptor) }

    func close(_ descriptor: Int32) {
        if !files.close(descriptor) { kernel.fail("close of descriptor \(descriptor), which is not open") }
    }

    // MARK: Running

    /// Makes a relay, from the state of another one if there is one. It runs as this process.
    typealias Make = (_ state: UnsafeRawBufferPointer?, _ remains: Remains?) throws -> RelayProcess
    private var make: Make!

    /// Makes the loop of this number, which `first` leads.
    typealias MakeOther = (_ first: RelayProcess, _ number: Int, _ state: UnsafeRawBufferPointer?) throws -> RelayProcess
    private var makeOther: MakeOther!

    /// `threads`: loops in all.
    func start(_ threads: Int, _ make: @escaping Make, _ makeOther: @escaping MakeOther) throws {
        (self.make, self.makeOther) = (make, makeOther)
        for _ in 1..<threads { others.append(VirtualProcess(loopOf: self)) }
        try begin(nil)
        hasBegun = true
    }

    /// `states`: what the same loops of another program have left.
    private func beginOthers(_ relay: RelayProcess, _ states: [UnsafeRawBufferPointer]) throws {
        guard !others.isEmpty else { return }
        relay.lead(1 + others.count)
        watchMail(relay)
        for (index, loop) in others.enumerated() {
            let other = try kernel.running(loop) { try makeOther(relay, index + 1, states.isEmpty ? nil : states[index]) }
            loop.relay = other
            loop.watchMail(other)
            kernel.running(loop) { other.begin() }
            loop.planRun()
        }
    }

    private func watchMail(_ relay: RelayProcess) {
        // A run belongs to one thread.
        nonisolated(unsafe) let loop = Unmanaged.passUnretained(self)
        relay.watchMail { loop.takeUnretainedValue().runSoon() }
        relay.duringTurn = { [weak self] in self?.letAnotherRun() }
    }

    /// Within a turn of this loop, another one of the process has turns of its own: threads are not in step.
    private func letAnotherRun() {
        guard kernel.chance.oneIn(8), !kernel.isWithinTurn else { return }
        kernel.isWithinTurn = true
        defer { kernel.isWithinTurn = false }
        let loops = files.processes.filter { $0 !== self && $0.relay != nil && $0.frozenUntil <= kernel.time }
        guard !loops.isEmpty else { return }
        let other = loops[kernel.chance.below(loops.count)]
        for _ in 0...kernel.chance.below(6) {
            kernel.pass(1 + kernel.chance.below(2000))
            other.iterate()
        }
    }

    /// True: it lived until all that it took over was committed.
    @discardableResult
    private func begin(_ state: UnsafeRawBufferPointer?, _ remains: Remains? = nil, others: [UnsafeRawBufferPointer] = []) throws -> Bool {
        let relay = try kernel.running(self) { try make(state, remains) }
        self.relay = relay
        try beginOthers(relay, others)
        if isDead { relay.freeze() }
        relay.watchAttention { [weak self] in self?.attends(to: $0) }
        var hasBegun = false
        let forgetPredecessor = relay.forgetPredecessor
        relay.forgetPredecessor = { relay in
            forgetPredecessor(relay)
            hasBegun = !relay.isFrozen
        }
        kernel.running(self) { relay.begin() }
        planRun()
        return hasBegun
    }

    /// Another program takes the process over, as soon as it can.
    func upgrade() {
        guard let relay else { return }
        kernel.running(self) { relay.handOver() }
        runSoon()
        guard kernel.chance.oneIn(4) else { return }
        // Or it finds that it cannot.
        kernel.after(UInt64(kernel.chance.skewed(200_000))) { [weak self, weak relay] in
            guard let self, let relay, relay === self.relay else { return }
            kernel.running(self) { relay.keepProgram() }
            runSoon()
        }
    }

    /// How often another program took it over.
    private(set) var takeovers = 0

    /// Of the old program nothing is left but what it saved, and the descriptors that it kept.
    private func takeOver() throws {
        (callsLeft, storesLeft) = (nil, nil)
        records_die_after(-1)
        let states = try loops.map { try $0.saveState() }
        let kept = states.reduce(into: Set<Int32>()) { $0.formUnion($1.descriptors) }
        let signals = files.sources.first { $0.kind == .signals }?.pending ?? []
        for loop in loops { loop.endRelay() }
        for number in files.numbers where !kept.contains(number) { close(number) }
        takeovers += 1
        if kernel.spoilsStates { return beginSpoiled(states[0].bytes) }
        sentSignals = []
        let memory = states.map { state in
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: state.bytes.count, alignment: 16)
            copy.copyBytes(from: state.bytes)
            return UnsafeRawBufferPointer(copy)
        }
        defer { for bytes in memory { bytes.deallocate() } }
        try begin(memory[0], others: Array(memory.dropFirst()))
        for number in signals { signal(Int32(number)) }
    }

    private func saveState() throws -> (bytes: [UInt8], descriptors: [Int32]) {
        var archive = StateArchive()
        let descriptors = try kernel.running(self) { try relay!.saveState(&archive) }
        archive.seal()
        return (Array(archive.bytes), descriptors)
    }

    /// It is gone, whatever it was doing.
    private func endRelay() {
        runNumber += 1
        nextRun = nil
        hasReported = false
        kernel.running(self) {
            self.relay?.dissolve()
            self.relay = nil
        }
        readyNow = []
        isReady = []
    }

    /// Some words of the state are others, and it is sealed all the same: it is refused, or the process does what it does, but for traps.
    private func beginSpoiled(_ bytes: [UInt8]) {
        var bytes = bytes.dropLast(8)
        for _ in 0...kernel.chance.below(3) {
            let place = kernel.chance.below(bytes.count / 8) * 8
            var word = kernel.chance.oneIn(3) ? kernel.chance.next() : UInt64(kernel.chance.skewed(1 << 40))
            for index in place..<place + 8 {
                bytes[index] = UInt8(truncatingIfNeeded: word)
                word >>= 8
            }
        }
        if kernel.chance.oneIn(8) { bytes = bytes.prefix(kernel.chance.below(bytes.count)) }
        var archive = StateArchive()
        bytes.withUnsafeBytes { archive.appendRest($0) }
        archive.seal()
        kernel.spoiledAt = kernel.spoiledAt ?? kernel.time
        do { try begin(archive.bytes) } catch { kernel.refusedStates += 1 }
    }

    // MARK: Death

    /// To the relay that runs.
    private var sentSignals: [Int32] = []

    /// System calls until it dies. Nil: it lives on.
    private var callsLeft: Int?
    /// It dies when the iteration is over, however many calls are left.
    private var diesBetween = false
    /// It is dead: no call has an effect any more.
    private(set) var isDead = false
    /// It died in the call of the ring that it made last, before it knew what that came to.
    private var diedInCall = false
    private(set) var crashes = 0
    /// It crashes whenever it works on this session.
    private var poison: UInt64 = 0
    /// The death is a crash, not a kill.
    private var hasCrashed = false
    private var suspect = Suspect()
    /// Most deaths by one session: the second one is its last.
    private var poisonings = 0

    /// It dies at one of its next system calls, in a commit, or when an iteration is over; another process that has its descriptors and its memory
    /// goes on.
    func crash() {
        guard relay?.keptMemory != nil, callsLeft == nil else { return }
        callsLeft = kernel.chance.skewed(40)
        diesBetween = kernel.chance.oneIn(4)
        if kernel.chance.oneIn(4) { storesLeft = kernel.chance.skewed(60) }
        runSoon()
    }

    /// It dies at this one of its calls from now on.
    func die(at death: Plan.CallDeath) { (callsLeft, place) = (death.call, death.place) }

    /// Where at the call it dies. Nil: anywhere.
    private var place: Plan.CallDeath.Place?
    /// System calls since it began, of all its processes.
    private(set) var callCount = 0
    private var hasBegun = false

    /// Stores of commits until it dies. Nil: in none.
    private var storesLeft: Int?

    /// It crashes from now on whenever it works on a session of these, by the high words of their identities. False: it has none of them.
    func poison(_ sessions: [UInt64]) -> Bool {
        guard relay?.keptMemory != nil, poison == 0, let session = sessions.first(where: { $0 != 0 && busySessions.contains($0) }) else { return false }
        poison = session
        return true
    }

    var busySessions: [UInt64] { relay?.busySessions ?? [] }

    /// As the keeper knows it.
    private var attended: UInt64 = 0

    private func attends(to session: UInt64) {
        attended = session
        guard session == poison, session != 0, !isDead else { return }
        poisonings += 1
        if poisonings > 2 { kernel.fail("a session that makes the process crash is not given up") }
        hasCrashed = true
        callsLeft = 0
        die(in: "its work for a session")
    }

    /// It dies between the note that a call of the ring is to be made and the call.
    func diesBeforeCall() -> Bool {
        guard let left = callsLeft, left <= 1, place.map({ $0 == .before }) ?? kernel.chance.oneIn(3) else { return false }
        (callsLeft, diedInCall) = (0, true)
        die(in: "front of a call")
        return true
    }

    /// A call had its effect.
    func countCall(isOfRing: Bool) {
        if hasBegun { callCount += 1 }
        guard let left = callsLeft, !isDead else { return }
        callsLeft = left - 1
        guard left <= 0 else { return }
        diedInCall = isOfRing && (place.map { $0 == .within } ?? kernel.chance.oneIn(2))
        die(in: diedInCall ? "a call" : "an iteration")
    }

    /// Asked behind each call of the ring: only the last one's result is not known.
    func takeDiedInCall() -> Bool {
        defer { diedInCall = false }
        return diedInCall
    }

    private func die(in what: String) {
        isDead = true
        relay?.freeze()
        if Trace.isOn { print("\(kernel.time / 1000) µs: host \(host) dies in \(what)") }
    }

    /// It has died, and its memory is what the next one goes on from.
    private var predecessor: RelayProcess?

    /// Another process goes on with what this one left. It may die itself before it has begun; the next one then has the same to go on from.
    private func recover() throws {
        let memory = relay!.keptMemory!, keptByteCount = relay!.keptByteCount
        // Those that had no effect yet, whether they were taken or not.
        let signals = sentSignals.dropFirst(Int(relay!.signalsConfirmed))
        sentSignals = []
        (predecessor, relay) = (relay, nil)
        var hasBegun = false
        repeat {
            crashes += 1
            // Of the next one, which reads pipes.
            (callsLeft, storesLeft, isDead, diedInCall, place) = (nil, nil, false, false, nil)
            let remains = try readRemains(memory, keptByteCount)
            hasCrashed = false
            let kept = Set(remains?.descriptors ?? [])
            let others = files.numbers.filter { !kept.contains($0) }.map { (number: $0, file: file($0)) }
            for number in kept where file(number) == nil { kernel.fail("descriptor \(number) is kept, and is not open") }
            readyNow = []
            isReady = []
            guard let remains else { break }
            if Trace.isOn { print("\(kernel.time / 1000) µs: host \(host) has died, another process goes on") }
            if kernel.chance.oneIn(2) { callsLeft = kernel.chance.skewed(60) }
            do {
                hasBegun = try begin(nil, remains)
            } catch  where isDead {
                // What a dead process is refused is no fault.
            } catch  where kernel.spoiledAt != nil {
                kernel.refusedStates += 1
                break
            }
            if hasBegun { for (number, file) in others where file === self.file(number) { close(number) } }
            if isDead, !hasBegun { dissolve(\.relay) }  // Nil if it died before it was made.
        } while isDead && !hasBegun
        dissolve(\.predecessor)
        if relay == nil { for number in files.numbers { close(number) } }
        for number in signals { signal(number) }
        if isDead { try recover() }
    }

    private func readRemains(_ memory: UnsafeRawBufferPointer, _ count: Int) throws -> Remains? {
        Keeper.inherited = Set(files.numbers)
        let isGivenUp = suspect.blame(attended, diedAt: kernel.time + UInt64(crashes), hasCrashed: hasCrashed)
        guard kernel.spoilsStates else { return try kernel.running(self) { try Remains(memory, suspect: attended, isGivenUp: isGivenUp) } }
        kernel.spoiledAt = kernel.spoiledAt ?? kernel.time
        return try? kernel.running(self) { try whileSpoiled(memory, count) { try Remains($0, suspect: attended, isGivenUp: isGivenUp) } }
    }

    /// Some words of the memory are others while `body` reads it: it is refused, or the process does what it does, but for traps.
    private func whileSpoiled<Result>(_ memory: UnsafeRawBufferPointer, _ count: Int, _ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        let words = UnsafeMutableRawBufferPointer(mutating: memory)
        // The head is last (kept.h), and its third word says where the kept area begins.
        let head = memory.count - VirtualProcess.headByteCount
        let area = Int(memory.load(fromByteOffset: head + 16, as: UInt64.self)) - Int(bitPattern: memory.baseAddress)
        var before: [(Int, UInt64)] = []
        for _ in 0...kernel.chance.below(6) {
            let place = kernel.chance.oneIn(4) ? head + kernel.chance.below(VirtualProcess.headByteCount / 8) * 8 : area + kernel.chance.below(count / 8) * 8
            before.append((place, words.load(fromByteOffset: place, as: UInt64.self)))
            let word = kernel.chance.oneIn(3) ? kernel.chance.next() : before.last!.1 ^ 1 << UInt64(kernel.chance.below(64))
            words.storeBytes(of: word, toByteOffset: place, as: UInt64.self)
        }
        defer { for (place, word) in before.reversed() { words.storeBytes(of: word, toByteOffset: place, as: UInt64.self) } }
        return try body(memory)
    }

    /// `struct kept_head`.
    private static let headByteCount = 16 * 8

    /// It is gone: what it does at its end has no effect.
    private func dissolve(_ dead: ReferenceWritableKeyPath<VirtualProcess, RelayProcess?>) {
        let wasDead = isDead
        isDead = true
        kernel.running(self) {
            self[keyPath: dead]?.dissolve()
            self[keyPath: dead] = nil
        }
        isDead = wasDead
    }

    func forgetReady(_ descriptor: Int32) { isReady.remove(descriptor) }

    func noteReady(_ descriptor: Int32) {
        guard relay != nil else { return }
        if isReady.insert(descriptor).inserted { readyNow.append(descriptor) }
        runSoon()
    }

    func takeReady(_ maximum: Int) -> ArraySlice<Int32> {
        if isDead { return [] }
        let taken = readyNow.prefix(maximum)
        readyNow.removeFirst(taken.count)
        for descriptor in taken { isReady.remove(descriptor) }
        return taken
    }

    /// An answer waits for it.
    func runSoon() { run(at: kernel.time + UInt64(kernel.chance.below(delayMaximum + 1))) }

    /// The ring is asked to take an operation.
    func queued() -> Int32 {
        queuedCount += 1
        if queuedCount > 100_000 {
            // Nothing else would end the iteration.
            kernel.fail("an iteration queues without end")
        } else if refusesUntil > kernel.time {
            return -ENOMEM
        }
        hasQueued = true
        return 0
    }

    /// Its ring would wait for more.
    func holdsBack() -> Bool {
        guard kernel.chance.oneIn(2) else { return false }
        heldUntil = kernel.time + UInt64(kernel.chance.skewed(20_000_000))
        return true
    }

    private var heldUntil: UInt64?

    private func run(at moment: UInt64) {
        let moment = max(moment, frozenUntil)
        if let nextRun, nextRun <= moment { return }
        nextRun = moment
        runNumber += 1
        let number = runNumber
        kernel.at(moment) { [weak self] in
            guard let self, self.runNumber == number else { return }
            self.nextRun = nil
            self.iterate()
        }
    }

    private func iterate() {
        guard relay != nil else { return }
        if frozenUntil > kernel.time { return run(at: frozenUntil) }
        iterations += 1
        hasQueued = false
        queuedCount = 0
        records_die_after(Int32(storesLeft ?? -1))
        kernel.running(self) { iterateRelay() }
        records_die_after(-1)
        if relay?.isFrozen ?? false, !isDead { die(in: "a commit") }
        if callsLeft != nil, isDead || diesBetween, ending == nil {
            do { return try recover() } catch { return kernel.fail("nothing can go on with what was left: \(error)") }
        }
        #if CANARIES
        if relay?.hasSeenLaterTime ?? false { kernel.fail("a time is later than now") }
        #endif
        overdraftPeak = max(overdraftPeak, relay?.overdraft ?? 0)
        if overdraftPeak > VirtualProcess.overdraftMaximum { kernel.fail("\(overdraftPeak) bytes more are held than the budget has") }
        if ending == nil { planRun() } else if isFirst { die() } else { endRelay() }
    }

    private func iterateRelay() {
        if hasReported {
            relay!.hearWhileSettled()
            if relay!.isSettled { return }
            hasReported = false
        }
        do {
            guard try !relay!.iterate(), !isDead else { return }
        } catch {
            return kernel.fail("the event loop failed: \(error.sentence)")
        }
        guard relay!.isSettled else {
            ending = relay!.finish()
            if !isFirst { relay!.leave(ending!) }
            return
        }
        guard isFirst else {
            hasReported = true
            return relay!.reportSettled()
        }
        do { try takeOver() } catch { kernel.fail("the process cannot be taken over: \(error)") }
    }

    /// It has settled, and told the first loop.
    private var hasReported = false

    private func planRun() {
        guard let relay, !hasReported else { return }
        if let moment = heldUntil { run(at: moment) }
        heldUntil = nil
        if hasQueued { return run(at: kernel.time + UInt64(kernel.chance.below(1000))) }
        if let deadline = relay.nextDeadline { run(at: deadline) }
    }

    /// The process is gone, however it ended: its descriptors are closed, its memory is lost.
    func die() {
        for loop in loops { loop.endRelay() }
        for number in files.numbers { close(number) }
    }

    /// A signal for it.
    func signal(_ number: Int32) {
        sentSignals.append(number)
        for source in files.sources where source.kind == .signals { source.post(UInt32(number)) }
    }

    func networkChanged() { post(.network) }

    /// Its machine sleeps, and wakes after so many nanoseconds.
    func sleep(_ length: UInt64) {
        for loop in loops { loop.frozenUntil = max(loop.frozenUntil, kernel.time + length) }
        kernel.after(length) { [weak self] in
            for loop in self?.loops ?? [] { loop.slept += length }
            self?.post(.waking)
        }
    }

    private func post(_ kind: EventSource.Kind) {
        for source in files.sources where source.kind == kind { source.post(1) }
    }
}

extension VirtualKernel {
    /// Calls made in `body` are the process's.
    func running<Result, Failure: Error>(_ process: VirtualProcess, _ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        let before = current
        current = process
        defer { current = before }
        return try body()
    }
}
