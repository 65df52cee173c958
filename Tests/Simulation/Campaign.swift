import Glibc

/// Many seeds in a row, and what they add up to.
public struct Campaign {
    public let first: UInt64
    public let count: UInt64
    /// So many failures are enough to look at.
    public var failuresMaximum = 10
    /// One side of every run lies.
    public var withLiars = false

    public init(first: UInt64, count: UInt64) {
        self.first = first
        self.count = count
    }

    /// True when all held. Prints failures as they come, and a line of sums.
    public func run() -> Bool {
        let simulation = Simulation()
        var failures = 0, run = 0
        var sum = Simulation.Report()
        let start = seconds()
        for seed in first..<first + count where failures < failuresMaximum {
            nowRunning = seed
            var plan = Plan(seed: seed)
            if withLiars { plan.liar = seed & 1 == 0 ? .client : .server }
            let report = simulation.run(plan)
            run += 1
            sum.add(report)
            if let failure = report.failure {
                failures += 1
                print("simulation: seed \(seed), step \(report.steps): \(failure)")
            }
        }
        let took = seconds() - start
        print("simulation: \(run) seeds from \(first), \(failures) failed; \(sum.carriers) carriers, \(sum.kills) cuts, "
              + "\(sum.resumes) resumes, \(sum.restarts) restarts, \(sum.doubts) doubts, \(sum.suspicions) suspicions, \(sum.carried) carried over, \(sum.spliced) spliced, \(sum.passed) passed on, "
              + "\(sum.delivered >> 20) MiB delivered, \(sum.steps) steps, "
              + "\(sum.virtualMilliseconds / 1000) virtual seconds in \(took) s")
        return failures == 0
    }

    /// Of this process on a processor: the real time says more about its neighbours.
    private func seconds() -> Int { Int(clock()) / Int(CLOCKS_PER_SEC) }
}

extension Simulation.Report {
    mutating func add(_ other: Simulation.Report) {
        steps += other.steps
        virtualMilliseconds += other.virtualMilliseconds
        carriers += other.carriers
        resumes += other.resumes
        kills += other.kills
        restarts += other.restarts
        doubts += other.doubts
        suspicions += other.suspicions
        spliced += other.spliced
        passed += other.passed
        carried += other.carried
        delivered += other.delivered
    }
}
