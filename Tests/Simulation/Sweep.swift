import Chance
import Glibc
import Wire

/// The carriers of a small conversation die at every byte: the first one (HELLO, WELCOME, frames of each kind) and the second (a resume with
/// early bytes and replay: protocol 4.11 to 4.18, 5.9), from each side, in each way in which a carrier can die; with bytes that go by memory, spliced, and with a key.
/// And its processes die before, during and after every system call, and others go on with what they left.
public struct Sweep {
    /// Where the first carrier dies when the second is swept.
    private static let firstDeath = 700
    /// One sequenced frame of each kind: OPEN, DATA, FIN, RESET, STREAM_CREDIT.
    private static let kinds: Set<UInt8> = [0x41, 0x42, 0x43, 0x44, 0x45]

    private let waysPerByte: Int
    /// Of carriers with a key most bytes are random, and of spliced ones payload: one in so many is swept.
    private static let keyedStride = 5
    private static let splicedStride = 997

    /// `waysPerByte`: in how many of the five ways a carrier dies at each byte, 1 to 5.
    public init(waysPerByte: Int) { self.waysPerByte = min(max(waysPerByte, 1), TCPSocket.Death.allCases.count) }

    /// True when all held. Prints failures as they come, and a line of sums.
    public func run(_ simulation: Simulation) -> Bool {
        let all = [Ground(splices: false, hasKey: false), Ground(splices: true, hasKey: false), Ground(splices: false, hasKey: true)]
        return !(all.map { sweep(simulation, $0) } + all.map { sweepCalls(simulation, $0) }).contains(false)
    }

    /// The conversation that is swept.
    private struct Ground {
        let splices, hasKey: Bool
        /// Which of many.
        var number: UInt64 = 0

        func plan(_ cuts: [Plan.Cut]) -> Plan { Plan(sweep: cuts, splices: splices, hasKey: hasKey, ground: number) }
        func plan(_ death: Plan.CallDeath?) -> Plan { Plan(sweep: [], splices: splices, hasKey: hasKey, ground: number, isKept: true, callDeath: death) }
        var stride: Int { hasKey ? Sweep.keyedStride : splices ? Sweep.splicedStride : 1 }
        var name: String { hasKey ? "with a key" : splices ? "spliced" : "by memory" }
    }

    private func sweep(_ simulation: Simulation, _ ground: Ground) -> Bool {
        let start = time(nil), first = Plan.Cut(carrier: 1, from: .client, afterBytes: Sweep.firstDeath, death: .reset)
        // What is sent when is chance, and moves with each change of the code: the first conversation with frames of all kinds.
        for number in 0..<64 as Range<UInt64> {
            var ground = ground
            ground.number = number
            let calm = simulation.run(ground.plan([])), resumed = simulation.run(ground.plan([first]))
            if let failure = calm.failure ?? resumed.failure { return say("the ground does not hold: \(failure)") }
            guard !ground.splices || calm.hasSpliced && resumed.hasSpliced else { continue }
            guard calm.carriers.count == 1, resumed.carriers.count == 2,
                ground.hasKey || Sweep.kinds.isSubset(of: Sweep.frames(in: calm.carriers[0]))
            else { continue }
            let cuts = self.cuts(ground, calm.carriers[0], carrier: 1, after: []) + self.cuts(ground, resumed.carriers[1], carrier: 2, after: [first])
            let failures = run(simulation, cuts, ground)
            print("sweep: \(cuts.count) deaths, \(ground.name), \(failures) failed, in \(time(nil) - start) s")
            return failures == 0
        }
        return say("no conversation \(ground.name) has frames of all kinds and one carrier")
    }

    private func sweepCalls(_ simulation: Simulation, _ ground: Ground) -> Bool {
        let start = time(nil)
        var ground = ground, calm = simulation.run(ground.plan(nil))
        while ground.splices, !calm.hasSpliced, ground.number < 64 {
            ground.number += 1
            calm = simulation.run(ground.plan(nil))
        }
        if let failure = calm.failure { return say("the ground does not hold: \(failure)") }
        guard !ground.splices || calm.hasSpliced else { return say("nothing is spliced") }
        var (deaths, failures) = (0, 0)
        for side in Side.allCases {
            for call in 1...calm.callCounts[side.rawValue] {
                for place in Plan.CallDeath.Place.allCases where failures < 10 {
                    deaths += 1
                    guard let failure = simulation.run(ground.plan(Plan.CallDeath(side: side, call: call, place: place))).failure else { continue }
                    failures += 1
                    print("sweep: \(ground.name), the \(side) dies \(place) its call \(call): \(failure)")
                }
            }
        }
        print("sweep: \(deaths) deaths of processes, \(ground.name), \(failures) failed, in \(time(nil) - start) s")
        return failures == 0
    }

    private func run(_ simulation: Simulation, _ cuts: [[Plan.Cut]], _ ground: Ground) -> Int {
        var failures = 0
        for cuts in cuts where failures < 10 {
            guard let failure = simulation.run(ground.plan(cuts)).failure else { continue }
            failures += 1
            let last = cuts[cuts.count - 1]
            print("sweep: \(ground.name), carrier \(last.carrier) dies \(last.afterBytes) bytes from the \(last.from), \(last.death): \(failure)")
        }
        return failures
    }

    private func cuts(_ ground: Ground, _ bytes: [[UInt8]], carrier: Int, after before: [Plan.Cut]) -> [[Plan.Cut]] {
        var cuts: [[Plan.Cut]] = []
        for from in Side.allCases {
            for byte in stride(from: 0, through: bytes[from.rawValue].count, by: ground.stride) {
                for way in 0..<waysPerByte {
                    let death = TCPSocket.Death.allCases[(byte / ground.stride + way) % TCPSocket.Death.allCases.count]
                    cuts.append(before + [Plan.Cut(carrier: carrier, from: from, afterBytes: byte, death: death)])
                }
            }
        }
        return cuts
    }

    /// The types of the frames that a carrier brought.
    private static func frames(in carrier: [[UInt8]]) -> Set<UInt8> {
        var types: Set<UInt8> = []
        for side in Side.allCases {
            carrier[side.rawValue].withUnsafeBytes { bytes in
                var index = side == .client ? Specification.prefaceByteCount + Int(bytes[6]) << 8 + Int(bytes[7]) : 0
                while index < bytes.count, let (frame, count) = try? decodeFrame(UnsafeRawBufferPointer(rebasing: bytes[index...]).bytes) {
                    types.insert(bytes[index])
                    index += count
                    if case .data(_, let payloadByteCount) = frame { index += payloadByteCount }
                }
            }
        }
        return types
    }

    private func say(_ sentence: String) -> Bool {
        print("sweep: \(sentence)")
        return false
    }
}
