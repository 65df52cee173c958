import Chance
import Glibc

/// Everything outside the processes of a simulation: time, chance, and what their system calls lead to. Nothing in it knows the real time,
/// and all chance comes from one seed, so that a seed replays bit for bit.
final class VirtualKernel {
    /// An address of a virtual machine. All machines are 10.0.0.`host`; 127.0.0.1 is the caller's own.
    struct Name: Hashable {
        var host: Int
        var port: UInt16
    }

    /// How a machine's kernel treats its sockets.
    struct Limits {
        var receiveBuffer = 256 << 10
        var sendBuffer = 256 << 10
        /// The most that one call moves.
        var moveMaximum = Int.max
        /// One call in this many moves less than it could; 0: none.
        var shortOneIn = 0
        var descriptors = 4096
        /// Bytes of all pipes.
        var pipeBytes = 16 << 20
        /// Whether a cancelled operation sometimes ends with what it had done.
        var cancelsLate = false
        /// Something between the machines takes bytes and passes them on, also those of a connection that its sender has reset.
        var hasMiddlebox = false
    }

    /// Machines with two interfaces. The second one has an address, and paths, of its own: those of this number.
    var hostsWithTwo: Set<Int> = []
    static func secondInterface(of host: Int) -> Int { host + 100 }
    static func machine(_ host: Int) -> Int { host % 100 }

    private(set) var time: UInt64
    var chance: Chance
    var limits = Limits()
    let network: VirtualNetwork
    private var events = EventHeap()
    /// The process whose call is answered.
    var current: VirtualProcess!
    /// Sockets that listen.
    var listeners: [Name: TCPSocket] = [:]
    /// Hosts of a name, and until when nobody answers questions for names.
    var names: [String: [Int]] = [:]
    var namesFailUntil: UInt64 = 0
    /// Told of each connection between machines: its dialler's end, its listener's.
    var onConnected: ((TCPSocket, TCPSocket) -> Void)?
    /// Both ends of connections between machines.
    private var connections: [TCPSocket] = []
    /// All that there ever were: they refer to each other, until the end.
    private var sockets: [TCPSocket] = []
    private var nextPort: UInt16 = 32768
    private(set) var steps = 0
    /// A hash over all that happened.
    private(set) var trace: UInt64 = 0
    /// States that are handed over are changed on the way; when that happened first, and how many were refused.
    var spoilsStates = false
    var spoiledAt: UInt64?
    var refusedStates = 0
    /// A loop has a turn within the turn of another one.
    var isWithinTurn = false
    /// Something that the kernel's caller may never do.
    private(set) var misuse: String?

    init(seed: UInt64) {
        chance = Chance(seed: seed)
        time = 1_000_000_000 + UInt64(chance.below(1 << 45))
        network = VirtualNetwork()
    }

    /// A connection between machines was made.
    func connected(_ dialler: TCPSocket, _ listener: TCPSocket) {
        if connections.count > 1000 { connections.removeAll(where: \.isOver) }
        connections += [dialler, listener]
        onConnected?(dialler, listener)
    }

    /// Ends of the connections between two machines, in the order of their beginnings.
    func connections(between one: Int, and other: Int) -> [TCPSocket] {
        connections.filter { !$0.isOver && ($0.host == one && $0.remote?.host == other || $0.host == other && $0.remote?.host == one) }
    }

    func made(_ socket: TCPSocket) { sockets.append(socket) }

    // MARK: Time

    func at(_ moment: UInt64, _ action: @escaping () -> Void) { events.add(max(moment, time), action) }
    func after(_ delay: UInt64, _ action: @escaping () -> Void) { events.add(time + delay, action) }

    /// The next event. False: nothing is left to happen.
    func step() -> Bool {
        guard let (moment, action) = events.next() else { return false }
        time = max(time, moment)
        steps += 1
        trace = Chance.mixed(trace ^ moment)
        action()
        return true
    }

    /// A little time goes by within a step.
    func pass(_ nanoseconds: Int) { time += UInt64(nanoseconds) }

    func note(_ word: UInt64) { trace = Chance.mixed(trace &+ word) }

    func fail(_ sentence: @autoclosure () -> String) { if misuse == nil { misuse = sentence() } }

    /// Lets go of everything: sockets and events refer to each other.
    func end() {
        events = EventHeap()
        listeners = [:]
        connections = []
        onConnected = nil
        for socket in sockets { socket.dissolve() }
        sockets = []
    }

    func freePort() -> UInt16 {
        nextPort = nextPort == .max ? 32768 : nextPort + 1
        return nextPort
    }

    /// How much of `count` one call moves.
    func part(_ count: Int) -> Int {
        let most = min(count, limits.moveMaximum)
        guard most > 1, limits.shortOneIn > 0, chance.oneIn(limits.shortOneIn) else { return most }
        return 1 + chance.below(most)
    }
}

/// Actions in the order of their times; equal times keep their order.
struct EventHeap {
    private var heap: [(time: UInt64, order: UInt64, action: () -> Void)] = []
    private var entries: UInt64 = 0

    mutating func add(_ time: UInt64, _ action: @escaping () -> Void) {
        entries += 1
        heap.append((time, entries, action))
        var index = heap.count - 1
        while index > 0 {
            let parent = (index - 1) / 2
            guard precedes(index, parent) else { break }
            heap.swapAt(index, parent)
            index = parent
        }
    }

    mutating func next() -> (time: UInt64, action: () -> Void)? {
        guard let first = heap.first else { return nil }
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var index = 0
        while true {
            var child = 2 * index + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, precedes(child + 1, child) { child += 1 }
            guard precedes(child, index) else { break }
            heap.swapAt(child, index)
            index = child
        }
        return (first.time, first.action)
    }

    private func precedes(_ left: Int, _ right: Int) -> Bool {
        heap[left].time != heap[right].time ? heap[left].time < heap[right].time : heap[left].order < heap[right].order
    }
}

/// The paths between machines, each direction of its own.
final class VirtualNetwork {
    struct Direction: Hashable { var from: Int, to: Int }

    struct Path {
        var latency: UInt64 = 1_000_000
        var jitter: UInt64 = 0
        /// Bytes a second; 0: no limit.
        var rate: UInt64 = 0
        /// One burst in this many is lost.
        var lossOneIn = Plan.never
        /// Whatever enters is lost.
        var isSilent = false
        /// The time at which the last byte leaves the queue.
        var busyUntil: UInt64 = 0
    }

    private var paths: [Direction: Path] = [:]
    var standard = Path()
    /// What is sent to these is lost, whatever heals.
    var silentHosts: Set<Int> = []

    subscript(from: Int, to: Int) -> Path {
        get { paths[Direction(from: from, to: to)] ?? (from == to ? Path(latency: 10_000) : standard) }
        set { paths[Direction(from: from, to: to)] = newValue }
    }

    func isSilent(_ from: Int, _ to: Int) -> Bool { self[from, to].isSilent || silentHosts.contains(to) }

    /// Whether a burst that left is lost on its way.
    func loses(_ from: Int, _ to: Int, _ chance: inout Chance) -> Bool {
        let lossOneIn = self[from, to].lossOneIn
        return lossOneIn < Plan.never && chance.oneIn(lossOneIn)
    }

    /// When bytes that leave now arrive.
    func arrival(_ from: Int, _ to: Int, _ count: Int, now: UInt64, _ chance: inout Chance) -> UInt64 {
        var path = self[from, to]
        var leaves = now
        if path.rate > 0 {
            leaves = max(now, path.busyUntil) + UInt64(count) * 1_000_000_000 / path.rate
            path.busyUntil = leaves
            self[from, to] = path
        }
        return leaves + path.latency + (path.jitter > 0 ? UInt64(chance.below(Int(path.jitter))) : 0)
    }
}
