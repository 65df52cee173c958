import Glibc
import Relay

/// Runs whole processes as they ship against a virtual kernel, and judges what their users saw.
public final class Simulation {
    public struct Report: Equatable, Sendable {
        public var seed: UInt64 = 0
        /// Nil: everything held.
        public var failure: String?
        public var steps = 0
        public var iterations = 0
        /// A hash over all that happened: two runs of a seed agree in it.
        public var trace: UInt64 = 0
        public var delivered = 0
        public var losses = 0
        public var kills = 0
        /// How often a program took a process over.
        public var takeovers = 0
        public var subflows = 0
        /// Of the changed states, those that were refused.
        public var refusedStates = 0
        /// System calls of the first client, and of the first server, until all was over.
        var callCounts: [Int] = []
        /// Bytes went through pipes, into carriers and out of them.
        var hasSpliced = false
        /// What each carrier brought from the client, and from the server, if the plan wants to know.
        var carriers: [[[UInt8]]] = []
    }

    /// What somebody hears who says something to a server.
    public struct Answer: Sendable {
        public internal(set) var bytes: [UInt8] = []
        public internal(set) var isClosed = false
    }

    private let keyFile: String

    /// Nil: this build cannot simulate processes; the command says how it is built.
    public init?() {
        var path = Array("/tmp/tele-simulate-XXXXXX".utf8CString)
        let descriptor = mkstemp(&path)
        guard descriptor >= 0 else { return nil }
        keyFile = String(decoding: path.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let line = "simulated:" + String(repeating: "5a", count: 32) + "\n"
        guard write(descriptor, line, line.utf8.count) == line.utf8.count, close(descriptor) == 0 else { return nil }
        guard World(Plan(seed: 0), keyFile: keyFile) != nil else { return nil }
    }

    deinit { unlink(keyFile) }

    /// What a server answers to strangers, one after the other, each within a second.
    public func answers(to words: [[UInt8]]) -> [Answer] {
        guard let world = World(Plan(sweep: [], splices: false, hasKey: false, ground: 0), keyFile: keyFile) else { fatalError("the world has gone") }
        return world.probe(words)
    }

    public func run(_ plan: Plan) -> Report {
        guard let world = World(plan, keyFile: keyFile) else { fatalError("the world has gone") }
        world.run()
        var report = Report()
        report.seed = plan.seed
        report.failure = world.failure
        report.steps = world.kernel.steps
        report.iterations = world.iterations
        report.trace = world.kernel.trace
        report.delivered = world.delivered
        (report.losses, report.kills, report.takeovers, report.subflows) = (world.losses, world.kills, world.takeovers, world.subflows)
        report.refusedStates = world.kernel.refusedStates
        report.carriers = world.records
        report.callCounts = world.callCounts
        report.hasSpliced = world.hasSpliced
        return report
    }
}

/// Many seeds of whole processes in a row.
public struct Campaign {
    public let first: UInt64
    public let count: UInt64
    public var failuresMaximum = 10
    /// All are this one; nil: each seed chooses.
    public var story: Plan.Story?
    public var withLiars = false
    /// Programs are taken over, and their states are changed on the way.
    public var spoilsStates = false

    public init(first: UInt64, count: UInt64) {
        self.first = first
        self.count = count
    }

    private func plan(_ seed: UInt64) -> Plan {
        var plan = story.map { Plan($0, seed: seed) } ?? Plan(seed: seed)
        plan.spoilsStates = spoilsStates
        if withLiars { plan.hasLiar(seed % 2 == 0 ? .client : .server) }
        return plan
    }

    /// True when all held.
    public func run(_ simulation: Simulation) -> Bool {
        var failures = 0, run = 0, steps = 0, iterations = 0, delivered = 0, losses = 0, kills = 0, takeovers = 0, refused = 0, subflows = 0
        let start = clock()
        for seed in first..<first + count where failures < failuresMaximum {
            nowRunning = seed
            let report = simulation.run(plan(seed))
            run += 1
            steps += report.steps
            iterations += report.iterations
            delivered += report.delivered
            losses += report.losses
            kills += report.kills
            takeovers += report.takeovers
            refused += report.refusedStates
            subflows += report.subflows
            guard let failure = report.failure else { continue }
            failures += 1
            print("seed \(seed), step \(report.steps): \(failure)")
        }
        let took = Double(clock() - start) / Double(CLOCKS_PER_SEC)
        print(
            "\(run) seeds from \(first), \(failures) failed; \(iterations) iterations, \(steps) steps, \(delivered >> 20) MiB delivered, "
                + "\(kills) kills and cuts, \(takeovers) takeovers\(spoilsStates ? " (\(refused) refused)" : ""), \(subflows) subflows, \(losses) connections lost, in \(Int(took)) s"
        )
        return failures == 0
    }
}
