import Simulation
import Testing

/// Whole processes on a virtual kernel. One at a time: the kernel of a run answers for its thread.
@Suite(.serialized) struct ProcessSimulationTests {
    @Test func aSeedReplaysBitForBit() throws {
        let simulation = try #require(ProcessSimulation(), "a debug build has the virtual kernel")
        for seed in [1, 77, 4711] as [UInt64] {
            let first = simulation.run(ProcessPlan(seed: seed))
            #expect(first.failure == nil, "seed \(seed)")
            #expect(simulation.run(ProcessPlan(seed: seed)) == first, "seed \(seed)")
        }
    }

    @Test func manySeedsHold() throws {
        let simulation = try #require(ProcessSimulation())
        for seed in 1...60 as ClosedRange<UInt64> {
            let failure = simulation.run(ProcessPlan(seed: seed)).failure
            #expect(failure == nil, "seed \(seed)")
        }
    }
}
