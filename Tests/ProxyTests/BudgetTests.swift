import Loop
import Testing
@testable import Proxy

@Suite struct BudgetTests {
    private func budget(session: Int, total: Int) -> Budget {
        var configuration = Configuration(role: .server, input: HostPort(host: "", port: 1), output: HostPort(host: "", port: 2))
        configuration.bufferByteCount = session
        configuration.memoryByteCount = 2 * total
        return Budget(configuration)
    }

    @Test func aFullBufferStopsItsReaders() {
        let budget = budget(session: 1000, total: 100_000)
        var account = Budget.Account()
        #expect(budget.mayHold(account, 0, isHealthy: true))
        budget.hold(1000, &account)
        #expect(!budget.mayHold(account, 0, isHealthy: true))
        budget.release(400, &account)
        #expect(budget.mayHold(account, 0, isHealthy: true))
        #expect(account.held == 600 && budget.held == 600)
    }

    /// Detached sessions that take all they can leave something for the next, however many they are.
    @Test func detachedSessionsCannotStarveTheOthers() {
        let budget = budget(session: 1 << 30, total: 64 << 20)
        var greedy = (0..<20).map { _ in Budget.Account() }
        for _ in 0..<10_000 {
            for index in greedy.indices where budget.mayHold(greedy[index], greedy[index].held, isHealthy: false) {
                budget.hold(16 << 10, &greedy[index])
            }
        }
        #expect(budget.held < 64 << 20)
        #expect(budget.mayHold(Budget.Account(), 0, isHealthy: true), "\(budget.held) bytes are held")
    }

    /// Hundreds of sessions that take all they can, and slabs that wait for bytes, leave each what it is sure of.
    @Test func hundredsOfGreedySessionsLeaveEachItsGuarantee() {
        let budget = budget(session: 1 << 30, total: 64 << 20)
        var greedy = (0..<900).map { _ in Budget.Account() }
        for index in greedy.indices { budget.open(&greedy[index]) }
        for _ in 0..<1000 {
            for index in greedy.indices where budget.mayHold(greedy[index], greedy[index].held, isHealthy: true) {
                budget.hold(4 << 10, &greedy[index])
            }
        }
        budget.arm(16 << 20)
        #expect(budget.held <= 64 << 20)
        #expect(!budget.mayHold(greedy[0], 0, isHealthy: true))
        var good = Budget.Account()
        budget.open(&good)
        for _ in 0..<3 {
            #expect(budget.mayHold(good, good.held, isHealthy: true), "\(budget.held) bytes are held")
            budget.hold(4 << 10, &good)
        }
        budget.release(good.held, &good)
        // All that was set apart comes back with the sessions.
        for index in greedy.indices {
            budget.close(&greedy[index])
            budget.release(greedy[index].held, &greedy[index])
        }
        budget.close(&good)
        budget.disarm(16 << 20)
        var last = Budget.Account()
        while budget.mayHold(last, 0, isHealthy: true) { budget.hold(1 << 20, &last) }
        #expect(last.held > 50 << 20)
    }

    @Test func armedReceivesCount() {
        let budget = budget(session: 1 << 20, total: 1 << 20)
        budget.arm(1 << 20)
        #expect(!budget.mayHold(Budget.Account(), 0, isHealthy: true))
        budget.disarm(1 << 20)
        #expect(budget.mayHold(Budget.Account(), 0, isHealthy: true))
    }

    @Test func oneStreamOfAHealthySessionHoldsLittle() {
        let budget = budget(session: 64 << 20, total: 512 << 20)
        let account = Budget.Account()
        #expect(!budget.mayHold(account, Policy.inboundWhileAttached, isHealthy: true))
        #expect(budget.mayHold(account, Policy.inboundWhileAttached, isHealthy: false))
    }

    @Test func readersHearOfRoomThatAnySessionFreed() {
        let budget = budget(session: 1 << 30, total: 1 << 30)
        var one = Budget.Account()
        budget.hold(1 << 20, &one)
        #expect(!budget.takeNews())
        budget.release(1000, &one)
        #expect(!budget.takeNews())
        budget.release(Policy.wakeByteCount, &one)
        #expect(budget.takeNews())
        #expect(!budget.takeNews())
        budget.release(one.held, &one)
        #expect(budget.takeNews())
    }

    @Test func bytesMoveWithTheirStream() {
        let budget = budget(session: 1 << 20, total: 1 << 20)
        var old = Budget.Account(), new = Budget.Account()
        budget.hold(500, &old)
        budget.move(300, from: &old, to: &new)
        #expect(old.held == 200 && new.held == 300 && budget.held == 500)
    }
}
