import Glibc
import Logging
import Loop
import State
import Synchronization

/// A further loop of a process: a thread that makes everything of its own, because a ring belongs to the thread that made it.
final class LoopThread: Sendable {
    /// What became of its start.
    private enum Start {
        case underWay, running
        case failed(StartFault)
        /// What was left cannot be used.
        case refused(StateFault)
    }

    private let start = Mutex(Start.underWay)
    private let configuration: Configuration
    private let logger: Logger
    private let group: LoopGroup
    private let number: Int
    private let places: [Mapping?]
    /// What the same loop of another program has left, which only this thread reads. Nil: nothing.
    private nonisolated(unsafe) let state: UnsafeRawBufferPointer?

    private init(
        _ configuration: Configuration, _ logger: Logger, _ group: LoopGroup, number: Int, places: [Mapping?], state: UnsafeRawBufferPointer?
    ) {
        (self.configuration, self.logger, self.group, self.number, self.places) = (configuration, logger, group, number, places)
        self.state = state
    }

    /// Starts all loops besides `relay`, which is the first, and waits until they run. `configuration`: the whole process's. `states`: what the
    /// loops of another program have left; empty: nothing.
    static func startOthers(
        of relay: RelayProcess, _ configuration: Configuration, _ logger: Logger, states: [UnsafeRawBufferPointer]
    ) throws {
        guard let group = relay.member?.group else { return }
        let places = relay.listeners.mappingsByPlace
        let threads = (1..<group.count).map { number in
            LoopThread(
                configuration.part(number), logger, group, number: number, places: places, state: states.isEmpty ? nil : states[number])
        }
        for thread in threads { try thread.begin() }
        for thread in threads { try thread.awaitStart() }
    }

    private func begin() throws(StartFault) {
        var thread = pthread_t()
        let me = Unmanaged.passRetained(self)
        let failed = pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<LoopThread>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, me.toOpaque())
        guard failed == 0 else {
            me.release()
            throw StartFault(.other, "cannot start a thread (\(SystemError(failed)))", hint: "try fewer -threads")
        }
        pthread_detach(thread)
    }

    private func awaitStart() throws {
        while true {
            switch start.withLock({ $0 }) {
            case .underWay: break
            case .running: return
            case .failed(let fault): throw fault
            case .refused(let fault): throw fault
            }
            Clock.sleep(nanoseconds: Policy.othersPause.nanoseconds)
        }
    }

    private func run() {
        let relay: RelayProcess
        do {
            relay = try makeMember()
        } catch let fault as StateFault {
            return start.withLock { $0 = .refused(fault) }
        } catch {
            let fault = error as? StartFault ?? StartFault(.other, "cannot start a loop (\(error))", hint: "try fewer -threads")
            return start.withLock { $0 = .failed(fault) }
        }
        start.withLock { $0 = .running }
        let ending = relay.run()
        relay.member?.leave(ending)
    }

    private func makeMember() throws -> RelayProcess {
        let relay = try RelayProcess(furtherOf: group, number, configuration, logger, places: places, state: state)
        if let state { Successor.release(state) }
        return relay
    }
}

extension RelayProcess {
    /// It is the first of so many loops, and has its listeners.
    package func lead(_ count: Int) { lead(LoopGroup(count: count, identity: server?.identity)) }

    /// A further loop. `configuration`: its part of the whole. `places`: the mappings of the first one's listeners. `state`: what the same loop of
    /// another program has left; it is not needed afterwards.
    convenience init(
        furtherOf group: LoopGroup, _ number: Int, _ configuration: Configuration, _ logger: Logger, places: [Mapping?], state: UnsafeRawBufferPointer?
    ) throws {
        let inheritance = try state.map { try Inheritance($0) }
        try self.init(configuration, log: logger, inheritance: inheritance, member: (group, number))
        listeners.mirror(places)
        _ = origins.set(configuration.dialled)
        if configuration.role == .client { become(try Client(self)) } else { become(Server(self)) }
        if let inheritance {
            try restoreState(inheritance)
            inheritance.closeRest()
        }
        // The first loop tells how many connections were kept.
        member?.publish()
    }
}
