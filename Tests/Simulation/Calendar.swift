/// What happens when: a binary heap over (time, order of entry), so that equal times keep their order.
struct Calendar {
    struct Event {
        var time: UInt64
        var order: UInt64
        var kind: Kind
        /// Who it concerns: an end, a session, a user or a stream.
        var subject: Int32
    }

    enum Kind: UInt8 {
        // The network.
        case deliver, take, fault, relieve, heal, breakUp
        // A side's process.
        case complete, down, timer, dial, connected, expire
        // Users.
        case open, write, read, reset
    }

    private var heap: [Event] = []
    private var entries: UInt64 = 0

    var isEmpty: Bool { heap.isEmpty }
    var count: Int { heap.count }

    mutating func add(_ kind: Kind, _ subject: Int, at time: UInt64) {
        entries += 1
        let event = Event(time: time, order: entries, kind: kind, subject: Int32(subject))
        heap.append(event)
        var index = heap.count - 1
        while index > 0 {
            let parent = (index - 1) / 2
            guard Calendar.precedes(event, heap[parent]) else { break }
            heap[index] = heap[parent]
            index = parent
        }
        heap[index] = event
    }

    mutating func next() -> Event? {
        guard let first = heap.first else { return nil }
        let last = heap.removeLast()
        guard !heap.isEmpty else { return first }
        var index = 0
        while true {
            var child = 2 * index + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, Calendar.precedes(heap[child + 1], heap[child]) { child += 1 }
            guard Calendar.precedes(heap[child], last) else { break }
            heap[index] = heap[child]
            index = child
        }
        heap[index] = last
        return first
    }

    private static func precedes(_ left: Event, _ right: Event) -> Bool {
        left.time != right.time ? left.time < right.time : left.order < right.order
    }
}
