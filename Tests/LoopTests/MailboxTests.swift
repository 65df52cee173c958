import Loop
import Synchronization
import Testing

@Suite struct MailboxTests {
    @Test func messagesComeInTheirOrderAndOnce() {
        let mailbox = Mailbox<Int>()
        #expect(mailbox.take() == [])
        #expect(mailbox.post([1]))
        #expect(mailbox.post([2, 3]))
        #expect(mailbox.take() == [1, 2, 3])
        #expect(mailbox.take() == [])
    }

    @Test func theFirstMessageWakesUntilItIsClosed() {
        let mailbox = Mailbox<Int>()
        let counter = Counter()
        mailbox.open { counter.add() }
        #expect(mailbox.post([1]))
        #expect(mailbox.post([2]))
        #expect(counter.count == 1)
        #expect(mailbox.take() == [1, 2])
        #expect(mailbox.post([3]))
        #expect(counter.count == 2)
        #expect(mailbox.close() == [3])
        #expect(!mailbox.post([4]))
        #expect(counter.count == 2)
        #expect(mailbox.close() == [])
    }

    @Test func nothingIsLostBetweenThreads() async {
        let mailbox = Mailbox<Int>()
        let total = 20_000
        await withTaskGroup(of: Void.self) { group in
            for first in 0..<4 {
                group.addTask {
                    for number in stride(from: first, to: total, by: 4) where !mailbox.post([number]) { Issue.record("it is not closed") }
                }
            }
            group.addTask {
                var seen: [Int] = []
                while seen.count < total { seen += mailbox.take() }
                // What one thread posts stays in its order.
                for first in 0..<4 { #expect(seen.filter { $0 % 4 == first } == Array(stride(from: first, to: total, by: 4))) }
            }
        }
    }

    final class Counter: Sendable {
        private let number = Mutex(0)
        var count: Int { number.withLock { $0 } }
        func add() { number.withLock { $0 += 1 } }
    }
}
