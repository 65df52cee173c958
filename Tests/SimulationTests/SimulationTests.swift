import Simulation
import Testing

@Suite struct SimulationTests {
    @Test(arguments: [1, 77, 4711] as [UInt64]) func aSeedReplaysBitForBit(seed: UInt64) {
        let simulation = Simulation()
        let first = simulation.run(Plan(seed: seed))
        #expect(first.failure == nil)
        #expect(simulation.run(Plan(seed: seed)) == first)
    }

    @Test func seedsDiffer() {
        let simulation = Simulation()
        #expect(simulation.run(Plan(seed: 1)).trace != simulation.run(Plan(seed: 2)).trace)
    }

    /// A path longer than the dialer's usual patience gets a carrier, and the bytes arrive.
    @Test(arguments: [200, 1_600, 4_000, 10_000]) func aLongPathGetsACarrier(roundTrip: Int) {
        let report = Simulation().run(Plan(longPath: roundTrip, seed: 5))
        #expect(report.failure == nil)
        #expect(report.virtualMilliseconds < roundTrip * 12 + 20_000, "\(report.virtualMilliseconds) ms")
    }

    @Test func aCutAtAnyOfTheFirstBytesLosesNothing() {
        let simulation = Simulation()
        for from in Side.allCases {
            for byte in 0..<200 {
                let plan = Plan(sweep: [Plan.Cut(carrier: 1, from: from, afterBytes: byte, style: byte % 5)])
                let failure = simulation.run(plan).failure
                #expect(failure == nil, "\(byte) bytes from the \(from)")
            }
        }
    }

    @Test func liarsAreCaughtOrHarmless() {
        let simulation = Simulation()
        for seed in 1...100 as ClosedRange<UInt64> {
            var plan = Plan(seed: seed)
            plan.liar = seed % 2 == 0 ? .client : .server
            #expect(simulation.run(plan).failure == nil, "seed \(seed)")
        }
    }
}
