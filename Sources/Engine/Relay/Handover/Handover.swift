import Control
import Glibc
import Loop
import State
import Time
import Tunnel

/// An upgrade: another program replaces this one in the same process, and restores its state (docs/internals/outliving.md).
///
///     none ──ask──▶ checking ──the new program reads this state──▶ settling ──nothing in flight──▶ settled ──▶ (replaced)
///      ▲               └──it does not, or does not answer──┐          └──too long──┐                  └──execve failed──┐
///      └───────────────────────────────────────────────────┴───────────────────────┴───────────────────────────────────┘
///
/// From `settling` on no operation begins: listeners do not accept, local sockets are neither read nor written, carriers are closed. Users
/// see a pause, as in an outage.
final class Handover {
    private enum State {
        case none
        case checking(SuccessorCheck)
        case settling(until: UInt64)
        case settled
    }

    unowned(unsafe) private let relay: RelayProcess
    private var state = State.none
    /// No operation begins. A stored flag, because every arm of a socket reads it.
    private(set) var isUnderWay = false
    /// The path of the new program.
    private var program: String?
    /// Descriptors of admin connections that wait for the result.
    private var askers: [Int32] = []
    /// Writes buffered log lines: execve ends the thread that writes them.
    var flush: () -> Void = {}
    /// When settling began, in nanoseconds on `Clock`.
    private(set) var settledSince: UInt64 = 0
    /// Upgrades so far, and the pause of the last one in nanoseconds.
    private(set) var takeovers: UInt64 = 0
    private(set) var lastPause: UInt64 = 0
    /// The same of processes that died.
    private(set) var recoveries: UInt64 = 0
    private(set) var recoveryPause: UInt64 = 0

    init(_ relay: RelayProcess) { self.relay = relay }

    var isSettled: Bool { if case .settled = state { true } else { false } }

    // MARK: Asking

    /// `program`: the path of the new program; nil: the path that this one was started from. `asker`: the descriptor of an admin connection,
    /// which gets the result and is closed.
    func ask(program: String? = nil, asker: Int32? = nil) {
        if let asker { askers.append(asker) }
        // A second request gets the result of the first.
        guard case .none = state else { return }
        if let reason = obstacle { return refuse(reason) }
        let program = program ?? relay.configuration.program
        guard let program else { return refuse("the path of the running program is not known; use -binary=FILE") }
        self.program = program
        do throws(SystemError) {
            state = .checking(try SuccessorCheck(relay, program))
        } catch {
            refuse("cannot run \(program) (\(error))")
        }
    }

    private var obstacle: String? {
        if relay.configuration.stream != nil { return "this process serves a single connection" }
        guard relay.stopping.isRunning else { return "the process is stopping" }
        // No state says of them what they wait for.
        if relay.listeners.hasAdopted { return "connections that were accepted before a crash wait for a client; try again when it is back" }
        // The saved state is a second copy of all bytes that wait.
        let needed = Memory.residentByteCount + 2 * relay.budget.accountedByteCount
        if let limit = Memory.limit, needed > limit / 10 * 9 {
            return "it needs \(needed >> 20) MiB of memory, and the limit is \(limit >> 20); try again when fewer bytes wait"
        }
        return nil
    }

    /// The check has ended.
    func handleChecked() {
        guard case .checking(let check) = state else { return }
        relay.timers.cancel(Operation.successorLate.token())
        state = .none
        switch check.take() {
        case .can: settle()
        case .cannot(let reason): refuse(reason)
        case .notWanted: answer(.conflict, "the process is stopping\n")
        }
    }

    /// The check took too long.
    func handleLate() { if case .checking(let check) = state { check.end(.cannot("the new program does not answer")) } }

    private func refuse(_ reason: String) {
        // A further loop has no askers: the first one refuses for all.
        guard relay.isFirst else { return relay.member?.report(settled: .failure(StateFault(reason))) ?? () }
        relay.events.note(.handoverRefused(reason: reason))
        answer(.conflict, "\(reason)\n")
    }

    private func answer(_ status: HTTPAnswer.Status, _ words: String) {
        for fd in askers { relay.admin.answerAndClose(fd, HTTPAnswer(status, words)) }
        askers = []
    }

    // MARK: Settling

    /// No operation begins from here on, and those in flight are cancelled.
    func settle() {
        guard !isUnderWay else { return }
        if let reason = obstacle { return refuse(reason) }
        settledSince = Clock.now()
        state = .settling(until: settledSince + Policy.settleMaximum.nanoseconds)
        isUnderWay = true
        relay.timers.set(Operation.successorLate.token(), at: settledSince + Policy.settleMaximum.nanoseconds)
        relay.listeners.suspend()
        relay.host.suspend()
        relay.origins.suspend()
        relay.carriers.closeAll()
        relay.locals.suspend()
        relay.member?.lead?.settleOthers()
    }

    /// After each iteration.
    func advance() {
        guard case .settling(let until) = state else { return }
        guard isQuiet, relay.member?.lead?.hasLegacies ?? true else {
            if relay.now >= until { giveUp("operations in flight did not end in time") }
            return
        }
        relay.locals.copyIntoMemory()
        state = .settled
    }

    private var isQuiet: Bool {
        relay.carriers.all.isEmpty && relay.listeners.isQuiet && relay.host.isQuiet && !relay.origins.isConnecting && relay.locals.isQuiet
            && !relay.admin.isAnswering
    }

    /// This program continues.
    func giveUp(_ reason: String) {
        switch state {
        case .none: return
        case .checking(let check): check.end(.notWanted)
        case .settling, .settled: state = .none
        }
        refuse(reason)
        relay.member?.lead?.discardLegacies()
        if isUnderWay { resume() }
    }

    /// The process goes on as it is.
    func goOn() {
        guard isUnderWay else { return }
        state = .none
        resume()
    }

    /// Operations begin again: after an upgrade that failed, or in the new program.
    func resume() {
        isUnderWay = false
        relay.timers.cancel(Operation.successorLate.token())
        relay.listeners.resume()
        relay.locals.resume()
        relay.origins.resume()
        relay.host.resume()
        for session in relay.sessions.all { relay.sessions.markDirty(session) }
    }

    // MARK: The successor

    /// Replaces this program. Returns only when that failed; this program then continues.
    func replaceProgram() {
        guard relay.isFirst else { return leaveLegacy() }
        guard let program else { return giveUp("no program is named") }
        do {
            let own = try makeLegacy()
            defer { own.discard() }
            relay.events.note(.handsOver(to: program, connections: relay.connectionCount))
            flush()
            let legacies = [own] + (relay.member?.lead?.legacies ?? [])
            guard let error = relay.manager.whileRestored({ Successor.become(program, legacies) }) else { return }
            giveUp("cannot run \(program) (\(error))")
        } catch {
            giveUp("the state cannot be saved: \((error as? StateFault)?.reason ?? "\(error)")")
        }
    }

    private func makeLegacy() throws -> Successor.Legacy {
        var archive = StateArchive()
        let descriptors = try relay.saveState(&archive, askers: askers)
        archive.seal()
        return try Successor.Legacy(archive.bytes, descriptors)
    }

    /// A further loop: its state is saved, and this thread waits until the program is replaced. Returns when the first loop says that it is not.
    private func leaveLegacy() {
        do {
            relay.member?.report(settled: .success(try makeLegacy()))
        } catch {
            relay.member?.report(settled: .failure(error as? StateFault ?? StateFault("\(error)")))
        }
        relay.member?.awaitGoingOn()
    }

    private var causeOfDeath: String {
        guard let signal = Keeper.ofThisProcess?.signal, signal != 0 else { return "the process before ended" }
        return "signal \(signal) (\(String(cString: strsignal(signal)).lowercased()))"
    }

    /// In the new program, before its first iteration.
    func takeOver(_ inheritance: Inheritance) {
        let facts = inheritance.facts
        isUnderWay = true
        takeovers = facts.takeovers + (inheritance.isCrash ? 0 : 1)
        resume()
        relay.replay(inheritance)
        // The kernel's counts have what was replayed.
        for index in inheritance.restored where relay.locals[index].pointee.fd >= 0 { relay.locals.beginCounts(index) }
        let pause = Clock.now() - min(Clock.now(), facts.settledSince)
        guard !inheritance.isCrash else {
            recoveryPause = pause
            if let keeper = Keeper.ofThisProcess {
                recoveryPause = Clock.now() - min(Clock.now(), keeper.diedAt)
                recoveries = UInt64(keeper.deaths)
            }
            relay.listeners.lookAgain()
            if let name = inheritance.givenUp { relay.events.note(.sessionGivenUp(name)) }
            defer { if inheritance.stopping != .running { relay.request(gently: inheritance.stopping == .draining) } }
            if let reason = relay.configuration.unreadFile { relay.events.note(.configurationUnread(reason: reason)) }
            return relay.events.note(.recovered(connections: relay.locals.count, pause: recoveryPause, reason: causeOfDeath))
        }
        lastPause = pause
        guard relay.isFirst else { return }
        let count = relay.connectionCount
        relay.events.note(.tookOver(from: facts.version, connections: count, pause: lastPause))
        askers = facts.askers
        let milliseconds = (lastPause + 500_000) / 1_000_000
        answer(
            .fine,
            "upgraded from \(facts.version) to \(relay.configuration.version): \(count) connection\(count == 1 ? "" : "s") kept, pause \(milliseconds) ms\n")
    }
}
