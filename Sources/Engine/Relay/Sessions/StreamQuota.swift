import Synchronization

/// How many streams a client may have, and has, in all of its sessions, which share it, in whatever loop of the process they are.
final class StreamQuota: Sendable {
    private let limit: Atomic<Int>
    private let count = Atomic(0)

    fileprivate init(most: Int) { limit = Atomic(most) }

    var most: Int {
        get { limit.load(ordering: .relaxed) }
        set { limit.store(newValue, ordering: .relaxed) }
    }

    var isFull: Bool { count.load(ordering: .relaxed) >= most }

    /// Streams begin, or end.
    func change(by number: Int) { count.add(number, ordering: .relaxed) }
}

/// Those of all clients with a limit of their own, by name.
final class StreamQuotas: Sendable {
    private let quotas = Mutex<[String: StreamQuota]>([:])

    /// The limit is `most` from now on.
    func quota(of client: String, most: Int) -> StreamQuota {
        quotas.withLock { quotas in
            let quota = quotas[client] ?? StreamQuota(most: most)
            quota.most = most
            quotas[client] = quota
            return quota
        }
    }
}
