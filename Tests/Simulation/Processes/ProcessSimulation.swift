import Glibc
import Relay

/// Runs whole processes as they ship against a virtual kernel, and judges what their users saw.
public final class ProcessSimulation {
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
        guard ProcessWorld(ProcessPlan(seed: 0), keyFile: keyFile) != nil else { return nil }
    }

    deinit { unlink(keyFile) }

    public func run(_ plan: ProcessPlan) -> Report {
        guard let world = ProcessWorld(plan, keyFile: keyFile) else { fatalError("the world has gone") }
        world.run()
        var report = Report()
        report.seed = plan.seed
        report.failure = world.failure
        report.steps = world.kernel.steps
        report.iterations = world.iterations
        report.trace = world.kernel.trace
        report.delivered = world.delivered
        (report.losses, report.kills) = (world.losses, world.kills)
        return report
    }
}

/// Many seeds of whole processes in a row.
public struct ProcessCampaign {
    public let first: UInt64
    public let count: UInt64
    public var failuresMaximum = 10
    /// All are this one; nil: each seed chooses.
    public var story: ProcessPlan.Story?

    public init(first: UInt64, count: UInt64) {
        self.first = first
        self.count = count
    }

    /// Nil: this build cannot. True when all held.
    public func run() -> Bool? {
        guard let simulation = ProcessSimulation() else { return nil }
        var failures = 0, run = 0, steps = 0, iterations = 0, delivered = 0, losses = 0, kills = 0
        let start = clock()
        for seed in first..<first + count where failures < failuresMaximum {
            nowRunning = seed
            let report = simulation.run(story.map { ProcessPlan($0, seed: seed) } ?? ProcessPlan(seed: seed))
            run += 1
            steps += report.steps
            iterations += report.iterations
            delivered += report.delivered
            losses += report.losses
            kills += report.kills
            guard let failure = report.failure else { continue }
            failures += 1
            print("processes: seed \(seed), step \(report.steps): \(failure)")
        }
        let took = Double(clock() - start) / Double(CLOCKS_PER_SEC)
        print("processes: \(run) seeds from \(first), \(failures) failed; \(iterations) iterations, \(steps) steps, \(delivered >> 20) MiB delivered, "
              + "\(kills) kills and cuts, \(losses) connections lost, in \(Int(took)) s")
        return failures == 0
    }
}
