import Glibc

/// A cut at every byte: of the first carrier (HELLO, WELCOME, one frame of each kind) and of the second (a resume with
/// early bytes and replay), from each side, in each of the ways in which a carrier can die; once with bytes that go by memory,
/// once with bytes that go past it.
public struct Sweep {
    /// Where the first carrier dies when the second is swept.
    private static let firstCut = 400
    private static let styles = 5
    /// One sequenced frame of each kind: OPEN, DATA, FIN, RESET, STREAM_CREDIT.
    private static let kinds: [UInt8] = [0x41, 0x42, 0x43, 0x44, 0x45]

    public init() {}

    /// True when all held. Prints failures as they come, and a line of sums.
    public func run() -> Bool {
        let all = [false, true].map(run)
        return !all.contains(false)
    }

    private func run(splices: Bool) -> Bool {
        let simulation = Simulation()
        let start = time(nil)
        // Which streams are reset is chance, and moves with each change of what is sent when: the first conversation with all kinds.
        let ground = (0..<64 as Range<UInt64>).first { ground in
            let calm = simulation.run(Plan(sweep: [], splices: splices, ground: ground))
            return calm.failure != nil || Sweep.kinds.allSatisfy(calm.sequenced.contains)
                && (calm.spliced > 4 && calm.passed > 4) == splices && calm.arrived.count == 1
        } ?? 0
        let calm = simulation.run(Plan(sweep: [], splices: splices, ground: ground))
        let first = Plan.Cut(carrier: 1, from: .client, afterBytes: Sweep.firstCut, style: 0)
        let resumed = simulation.run(Plan(sweep: [first], splices: splices, ground: ground))
        guard calm.failure == nil, resumed.failure == nil, calm.arrived.count == 1, resumed.arrived.count >= 2 else {
            print("sweep: the ground does not hold: \(calm.failure ?? resumed.failure ?? "another number of carriers")")
            return false
        }
        let missing = Sweep.kinds.filter { !calm.sequenced.contains($0) }
        guard missing.isEmpty, (calm.spliced > 4 && calm.passed > 4) == splices else {
            print("sweep: the ground has no frame of type \(missing), \(calm.spliced) spliced, \(calm.passed) passed on")
            return false
        }
        var cuts: [[Plan.Cut]] = []
        for from in Side.allCases {
            for byte in 0...calm.arrived[0][from.rawValue] {
                for style in 0..<Sweep.styles {
                    cuts.append([Plan.Cut(carrier: 1, from: from, afterBytes: byte, style: style)])
                }
            }
            for byte in 0...resumed.arrived[1][from.rawValue] {
                for style in 0..<Sweep.styles {
                    cuts.append([first, Plan.Cut(carrier: 2, from: from, afterBytes: byte, style: style)])
                }
            }
        }
        var failures = 0
        for plan in cuts {
            guard let failure = simulation.run(Plan(sweep: plan, splices: splices, ground: ground)).failure else { continue }
            failures += 1
            let last = plan[plan.count - 1]
            print("sweep: carrier \(last.carrier) cut \(last.afterBytes) bytes from the \(last.from), style \(last.style): \(failure)")
            if failures == 10 { break }
        }
        print("sweep: \(cuts.count) cuts, \(calm.spliced) frames spliced, \(failures) failed, in \(time(nil) - start) s")
        return failures == 0
    }
}
