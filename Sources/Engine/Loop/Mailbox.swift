import Synchronization

/// Messages from other threads to the owner of a loop, in the order in which they were posted. They wake the loop.
public final class Mailbox<Message: Sendable>: Sendable {
    private struct State {
        var messages: [Message] = []
        /// Nil: nobody takes them, not yet or not any more.
        var wake: (@Sendable () -> Void)?
        var isClosed = false
    }

    private let state = Mutex(State())
    /// Something was posted since the last `take`: read in each turn of a loop, so without the lock.
    private let isFilled = Atomic(false)

    public init() {}

    /// `wake` is called on the thread of whoever posts, until `close`.
    public func open(wake: @escaping @Sendable () -> Void) { state.withLock { $0.wake = wake } }

    /// False: it is closed, and what the messages own is still the caller's.
    public func post(_ messages: [Message]) -> Bool {
        state.withLock { state in
            guard !state.isClosed else { return false }
            // Whoever takes one takes all.
            let wakes = state.messages.isEmpty && !messages.isEmpty
            state.messages += messages
            isFilled.store(true, ordering: .releasing)
            if wakes { state.wake?() }
            return true
        }
    }

    public func take() -> [Message] {
        guard isFilled.load(ordering: .acquiring) else { return [] }
        return state.withLock { state in
            isFilled.store(false, ordering: .relaxed)
            defer { state.messages = [] }
            return state.messages
        }
    }

    /// The loop is about to go. Returns what nobody has taken.
    public func close() -> [Message] {
        state.withLock { state in
            defer { state = State(isClosed: true) }
            return state.messages
        }
    }
}
