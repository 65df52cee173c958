import Loop
import Testing
@testable import Relay

@Suite struct BudgetTests {
    private func budget(session: Int, total: Int) -> Budget {
        var configuration = Configuration(role: .server, input: HostPort(host: "", port: 1), output: HostPort(host: "", port: 2))
        configuration.bufferByteCount = session
        configuration.memoryByteCount = 2 * total
        return Budget(configuration)
    }

    private func mayRead(_ budget: Budget, _ account: Budget.Account, _ inbound: Int, isHealthy: Bool = true) -> Bool {
        budget.room(account) > 0 && budget.share(account, inbound, credit: .max, users: 1, isHealthy: isHealthy) > 0
    }

    /// protocol 7.8
    @Test func aFullBufferStopsItsReaders() {
        let budget = budget(session: 1000, total: 100_000)
        var account = Budget.Account()
        #expect(mayRead(budget, account, 0, isHealthy: true))
        budget.hold(1000, &account)
        #expect(!mayRead(budget, account, 0, isHealthy: true))
        budget.release(400, &account)
        #expect(mayRead(budget, account, 0, isHealthy: true))
        #expect(account.held == 600 && budget.held == 600)
    }

    /// Detached sessions that take all they can leave something for the next, however many they are.
    @Test func detachedSessionsCannotStarveTheOthers() {
        let budget = budget(session: 1 << 30, total: 64 << 20)
        var greedy = (0..<20).map { _ in Budget.Account() }
        for _ in 0..<10_000 {
            for index in greedy.indices where mayRead(budget, greedy[index], greedy[index].held, isHealthy: false) {
                budget.hold(16 << 10, &greedy[index])
            }
        }
        #expect(budget.held < 64 << 20)
        #expect(mayRead(budget, Budget.Account(), 0, isHealthy: true), "\(budget.held) bytes are held")
    }

    /// Hundreds of sessions that take all they can, and slabs that wait for bytes, leave each what it is sure of.
    @Test func hundredsOfGreedySessionsLeaveEachItsGuarantee() {
        let budget = budget(session: 1 << 30, total: 64 << 20)
        var greedy = (0..<900).map { _ in Budget.Account() }
        for index in greedy.indices { budget.open(&greedy[index]) }
        for _ in 0..<1000 {
            for index in greedy.indices where mayRead(budget, greedy[index], greedy[index].held, isHealthy: true) {
                budget.hold(4 << 10, &greedy[index])
            }
        }
        budget.arm(16 << 20)
        #expect(budget.held <= 64 << 20)
        #expect(!mayRead(budget, greedy[0], 0, isHealthy: true))
        var good = Budget.Account()
        budget.open(&good)
        for _ in 0..<3 {
            #expect(mayRead(budget, good, good.held, isHealthy: true), "\(budget.held) bytes are held")
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
        while mayRead(budget, last, 0, isHealthy: true) { budget.hold(1 << 20, &last) }
        #expect(last.held > 50 << 20)
    }

    @Test func armedReceivesCount() {
        let budget = budget(session: 1 << 20, total: 1 << 20)
        budget.arm(1 << 20)
        #expect(!mayRead(budget, Budget.Account(), 0, isHealthy: true))
        budget.disarm(1 << 20)
        #expect(mayRead(budget, Budget.Account(), 0, isHealthy: true))
    }

    @Test func oneStreamOfAHealthySessionHoldsLittle() {
        let budget = budget(session: 64 << 20, total: 512 << 20)
        let account = Budget.Account()
        #expect(!mayRead(budget, account, Policy.inboundWhileAttached, isHealthy: true))
        #expect(mayRead(budget, account, Policy.inboundWhileAttached, isHealthy: false))
    }

    @Test func readersHearOfRoomThatAnySessionFreed() {
        let budget = budget(session: 1 << 30, total: 1 << 30)
        var one = Budget.Account()
        budget.hold(1 << 20, &one)
        #expect(!budget.takeWakeReaders())
        budget.release(1000, &one)
        #expect(!budget.takeWakeReaders())
        budget.release(Policy.wakeByteCount, &one)
        #expect(budget.takeWakeReaders())
        #expect(!budget.takeWakeReaders())
        budget.release(one.held, &one)
        #expect(budget.takeWakeReaders())
    }

    @Test func bytesMoveWithTheirStream() {
        let budget = budget(session: 1 << 20, total: 1 << 20)
        var old = Budget.Account(), new = Budget.Account()
        budget.holdUnplaced(500, &old)
        budget.move(300, from: &old, to: &new)
        #expect(old.held == 200 && new.held == 300 && budget.held == 500)
    }

    /// 1000 users whose streams stand still: one more may bring bytes, and they together hold no more than half.
    @Test func usersWhoseStreamsStandStillLeaveRoomForTheNext() {
        let budget = budget(session: 64 << 20, total: 512 << 20)
        var account = Budget.Account()
        for user in 1...1000 {
            var inbound = 0
            while true {
                let most = min(budget.room(account), budget.share(account, inbound, credit: 0, users: user, isHealthy: true), 16 << 10)
                guard most > 0 else { break }
                budget.holdUnplaced(most, &account)
                inbound += most
            }
            #expect(inbound > 0, "user \(user) brings nothing")
        }
        #expect(account.unplaced <= 20 << 20, "\(account.unplaced) bytes wait for credit")
        #expect(min(budget.room(account), budget.share(account, 0, credit: .max, users: 1001, isHealthy: true)) >= 1 << 20)
    }

    /// What idle users might bring is set apart for a part of them only: the others are read when bytes are there.
    @Test func receivesThatWaitForBytesAreBounded() {
        let budget = budget(session: 64 << 20, total: 512 << 20)
        var account = Budget.Account()
        var count = 0
        while budget.expect(16 << 10, &account) { count += 1 }
        #expect(count == 1024 && budget.expected == 16 << 20)
        #expect(mayRead(budget, account, 0))
        for _ in 0..<count { budget.unexpect(16 << 10, &account) }
        #expect(budget.expected == 0 && account.expected == 0)
    }
}
