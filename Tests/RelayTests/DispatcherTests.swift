import Testing

@testable import Relay

@Suite struct DispatcherTests {
    private let group = LoopGroup(count: 3, identity: nil)

    /// It has taken all that it was given, and turned.
    private func turn(_ loop: Int, _ dispatcher: Dispatcher) {
        group.stations[loop].received.store(dispatcher.given[loop], ordering: .relaxed)
        group.stations[loop].load.store(dispatcher.given[loop], ordering: .relaxed)
        group.stations[loop].turns.add(1, ordering: .relaxed)
    }

    @Test func theOneWithLeastToDoIsNext() {
        var dispatcher = Dispatcher(group.stations)
        group.stations[0].load.store(5, ordering: .relaxed)
        group.stations[2].load.store(3, ordering: .relaxed)
        var given = [0, 0, 0]
        for _ in 0..<7 { given[dispatcher.next(now: 1)] += 1 }
        // What is on its way counts already.
        #expect(given == [0, 5, 2])
    }

    @Test func whoHasACarrierIsNext() {
        var dispatcher = Dispatcher(group.stations)
        for loop in 0...1 { group.stations[loop].load.store(loop, ordering: .relaxed) }
        group.stations[2].load.store(100, ordering: .relaxed)
        group.stations[2].readiness.store(LoopGroup.Readiness.best.rawValue, ordering: .relaxed)
        #expect(dispatcher.next(now: 1) == 2)
        group.stations[2].readiness.store(LoopGroup.Readiness.full.rawValue, ordering: .relaxed)
        #expect(dispatcher.next(now: 1) == 0)
        #expect(dispatcher.hasRoom)
    }

    @Test func whoStandsStillIsNotNext() {
        var dispatcher = Dispatcher(group.stations)
        var now: UInt64 = 1
        for _ in 0..<30 { turn(dispatcher.next(now: now), dispatcher) }
        // From here on the third does not turn.
        var late = 0
        for _ in 0..<300 {
            now += 10_000_000
            let loop = dispatcher.next(now: now)
            if loop != 2 { turn(loop, dispatcher) } else { late += 1 }
        }
        #expect((1...40).contains(late), "\(late) connections wait for a loop that stands still")
        turn(2, dispatcher)
        #expect((0..<300).contains { _ in dispatcher.next(now: now) == 2 })
    }
}
