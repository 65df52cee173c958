import Control
import Glibc
import Loop
import State
import Time
import Tunnel

/// The planned end of this program in favour of another one in the same process, which goes on from its state
/// (docs/internals/outliving.md).
///
///     none ──ask──▶ checking ──the new program can go on from this──▶ settling ──nothing is under way──▶ settled ──▶ (replaced)
///      ▲               └──it cannot, or says nothing──┐                  └──too long──┐                     └──it did not start──┐
///      └──────────────────────────────────────────────┴───────────────────────────────┴─────────────────────────────────────────┘
///
/// While it settles nothing begins: listeners accept nothing, local sockets are neither read nor written, carriers are gone. Users see
/// slowness, as in an outage.
final class Handover {
    private enum State {
        case none
        case checking(SuccessorCheck)
        case settling(until: UInt64)
        case settled
    }

    unowned(unsafe) private let relay: RelayProcess
    private var state = State.none
    /// Nothing begins: read in many places, each turn.
    private(set) var isUnderWay = false
    /// The program that shall take over.
    private(set) var program: String?
    /// Admin connections that wait to hear how it went: their descriptors.
    private var askers: [Int32] = []
    /// Writes what waits to be written: the last thing that this program does.
    var flush: () -> Void = {}
    /// When it began to settle.
    private(set) var settledSince: UInt64 = 0
    /// How often another program took the process over, and for how many nanoseconds it stood still the last time.
    private(set) var takeovers: UInt64 = 0
    private(set) var lastPause: UInt64 = 0

    init(_ relay: RelayProcess) { self.relay = relay }

    var isSettled: Bool { if case .settled = state { true } else { false } }

    // MARK: Asking

    /// `program`: its path; nil: what now lies where this program was started from. `asker`: an admin connection's descriptor, which is
    /// answered, and closed.
    func ask(program: String? = nil, asker: Int32? = nil) {
        if let asker { askers.append(asker) }
        // Who asks meanwhile hears how this one went.
        guard case .none = state else { return }
        if let reason = obstacle { return refuse(reason) }
        let program = program ?? relay.configuration.program
        guard let program else { return refuse("this program does not know its own path; name one with -binary") }
        self.program = program
        do throws(SystemError) {
            state = .checking(try SuccessorCheck(relay, program))
        } catch {
            refuse("cannot run \(program) (\(error))")
        }
    }

    private var obstacle: String? {
        if relay.configuration.stream != nil { return "this process serves one connection of whoever started it" }
        guard relay.stopping.isRunning else { return "the process is stopping" }
        // The state is there twice while one program becomes the other.
        let needed = Memory.residentByteCount + 2 * relay.budget.accountedByteCount
        if let limit = Memory.limit, needed > limit / 10 * 9 {
            return "it takes \(needed >> 20) MiB, and this process may use \(limit >> 20); try when less waits"
        }
        return nil
    }

    /// The program that was asked has ended.
    func handleChecked() {
        guard case .checking(let check) = state else { return }
        let answer = check.take()
        relay.timers.cancel(Operation.successorLate.token())
        state = .none
        switch answer {
        case .can: settle()
        case .cannot(let reason): refuse(reason)
        case .notWanted: break
        }
    }

    /// It is silent for too long.
    func handleLate() { if case .checking(let check) = state { check.end(.cannot("the new program does not answer")) } }

    private func refuse(_ reason: String) {
        relay.events.note(.handoverRefused(reason: reason))
        answer(.conflict, "\(reason)\n")
    }

    private func answer(_ status: HTTPAnswer.Status, _ words: String) {
        for fd in askers { relay.admin.answerAndClose(fd, HTTPAnswer(status, words)) }
        askers = []
    }

    // MARK: Settling

    /// From here on nothing begins, and what is under way comes to its end.
    func settle() {
        guard !isUnderWay else { return }
        settledSince = Clock.now()
        state = .settling(until: settledSince + Policy.settleMaximum.nanoseconds)
        isUnderWay = true
        relay.timers.set(Operation.successorLate.token(), at: settledSince + Policy.settleMaximum.nanoseconds)
        relay.listeners.suspend()
        relay.host.suspend()
        relay.carriers.closeAll()
        relay.locals.suspend()
    }

    /// After each turn.
    func advance() {
        guard case .settling(let until) = state else { return }
        guard isQuiet else {
            if relay.now >= until { giveUp("operations are under way that do not end") }
            return
        }
        guard relay.locals.copyIntoMemory() else { return giveUp("there is no memory for what lies in pipes") }
        state = .settled
    }

    private var isQuiet: Bool {
        relay.carriers.all.isEmpty && relay.listeners.isQuiet && relay.host.isQuiet && relay.locals.isQuiet && !relay.admin.isAnswering
    }

    /// This program goes on as if nothing had been.
    func giveUp(_ reason: String) {
        switch state {
        case .none: return
        case .checking(let check): check.end(.notWanted)
        case .settling, .settled: state = .none
        }
        refuse(reason)
        if isUnderWay { resume() }
    }

    /// Everything begins again: after a handover that came to nothing, or in the successor.
    func resume() {
        isUnderWay = false
        relay.timers.cancel(Operation.successorLate.token())
        relay.listeners.resume()
        relay.locals.resume()
        relay.host.resume()
        for session in relay.sessions.all { relay.sessions.markDirty(session) }
    }

    // MARK: The successor

    /// Becomes the other program. Returns only when that failed; then this one goes on.
    func replaceProgram() {
        guard let program else { return giveUp("no program is named") }
        let descriptors: [Int32]
        do throws(StateFault) {
            var archive = StateArchive()
            descriptors = try relay.saveState(&archive, askers: askers)
            archive.seal()
            relay.events.note(.handsOver(to: program, connections: relay.locals.count))
            flush()
            guard let error = relay.manager.whileRestored({ Successor.become(program, archive.bytes, descriptors) }) else { return }
            giveUp("cannot run \(program) (\(error))")
        } catch {
            giveUp("the state cannot be saved: \(error.reason)")
        }
    }

    /// The first thing that a successor does: it goes on from what was left to it.
    func takeOver(_ inheritance: Inheritance) {
        let facts = inheritance.facts
        isUnderWay = true
        takeovers = facts.takeovers + 1
        resume()
        lastPause = Clock.now() - min(Clock.now(), facts.settledSince)
        relay.events.note(.tookOver(from: facts.version, connections: relay.locals.count, pause: lastPause))
        askers = facts.askers
        let count = relay.locals.count
        let milliseconds = (lastPause + 500_000) / 1_000_000
        answer(
            .fine,
            "upgraded from \(facts.version) to \(relay.configuration.version): \(count) connection\(count == 1 ? "" : "s") kept, pause \(milliseconds) ms\n")
    }
}
