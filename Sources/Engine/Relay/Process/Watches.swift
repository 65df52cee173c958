import Loop
import Time

/// Descriptors by which the kernel tells a process what happens around it: signals, changes of links, addresses and routes, sleep, changes
/// of files. The ring waits for each of them.
final class Watches {
    unowned(unsafe) private let relay: RelayProcess
    /// Nil: another loop of the process takes them.
    let signals: Signals?
    private let networkEvents = NetworkEvents()
    private var wakeEvents = WakeEvents()
    private let fileEvents: FileEvents?
    private var armed = Armed()
    /// Nanoseconds that the machine slept since `takeSleep`.
    private var slept: UInt64 = 0

    private struct Armed: OptionSet {
        var rawValue: UInt8
        static let signals = Armed(rawValue: 1)
        static let networkEvents = Armed(rawValue: 2)
        static let wakeEvents = Armed(rawValue: 4)
        static let fileEvents = Armed(rawValue: 8)
    }

    /// `files`: those whose changes are told.
    init(_ relay: RelayProcess, _ signals: Signals?, files: [String]) {
        self.relay = relay
        self.signals = signals
        fileEvents = FileEvents(files)
    }

    /// The ring waits for each that it does not wait for yet. What it has no room for is tried again later.
    func arm() {
        arm(.signals, signals?.fd, .signals)
        arm(.networkEvents, networkEvents?.fd, .networkEvents)
        arm(.wakeEvents, wakeEvents?.fd, .wakeEvents)
        arm(.fileEvents, fileEvents?.fd, .fileEvents)
        var wanted: Armed = []
        if signals != nil { wanted.insert(.signals) }
        if networkEvents != nil { wanted.insert(.networkEvents) }
        if wakeEvents != nil { wanted.insert(.wakeEvents) }
        if fileEvents != nil { wanted.insert(.fileEvents) }
        guard armed != wanted else { return }
        relay.timers.set(Operation.watchesRetry.token(), at: relay.now + Policy.retryDelay.nanoseconds)
    }

    private func arm(_ one: Armed, _ fd: Int32?, _ operation: Operation) {
        guard let fd, !armed.contains(one), relay.loop.readable(fd, operation.token()) else { return }
        armed.insert(one)
    }

    /// One of them has something to tell.
    func handle(_ operation: Operation) {
        switch operation {
        case .signals:
            armed.remove(.signals)
            while let number = signals?.take() { relay.handleSignal(number) }
        case .wakeEvents:
            armed.remove(.wakeEvents)
            slept = wakeEvents?.take() ?? 0
        case .fileEvents:
            armed.remove(.fileEvents)
            fileEvents?.drain()
            relay.reload.handleFileEvents()
        case .networkEvents:
            armed.remove(.networkEvents)
            networkEvents?.drain()
            relay.handleNetworkEvents()
        default:
            preconditionFailure("not an operation of a watch")
        }
        arm()
    }

    /// Nanoseconds that the machine slept since the last call, as the kernel told.
    func takeSleep() -> UInt64 {
        defer { slept = 0 }
        return slept
    }
}
