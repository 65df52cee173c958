import Simulation
import Testing

/// Whole processes on a virtual kernel. One at a time: the kernel of a run answers for its thread.
@Suite(.serialized) struct SimulationTests {
    @Test func aSeedReplaysBitForBit() throws {
        let simulation = try #require(Simulation(), "a debug build has the virtual kernel")
        for seed in [1, 77] as [UInt64] {
            let first = simulation.run(Plan(seed: seed))
            #expect(first.failure == nil, "seed \(seed)")
            #expect(simulation.run(Plan(seed: seed)) == first, "seed \(seed)")
        }
    }

    @Test func seedsDiffer() throws {
        let simulation = try #require(Simulation())
        #expect(simulation.run(Plan(seed: 1)).trace != simulation.run(Plan(seed: 2)).trace)
    }

    @Test func manySeedsHold() throws {
        let simulation = try #require(Simulation())
        for seed in 1...15 as ClosedRange<UInt64> {
            let failure = simulation.run(Plan(seed: seed)).failure
            #expect(failure == nil, "seed \(seed)")
        }
    }

    @Test func liarsHarmNobodyElse() throws {
        let simulation = try #require(Simulation())
        for seed in 1...10 as ClosedRange<UInt64> {
            var plan = Plan(seed: seed)
            plan.hasLiar(seed % 2 == 0 ? .client : .server)
            let failure = simulation.run(plan).failure
            #expect(failure == nil, "seed \(seed)")
        }
    }
}
