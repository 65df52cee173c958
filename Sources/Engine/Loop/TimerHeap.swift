/// Deadlines of many, as a binary heap. A token has one deadline: setting it again moves it, so timers neither multiply
/// nor outlive what they are for. Each step is logarithmic.
public struct TimerHeap: ~Copyable {
    private var entries: [(deadline: UInt64, token: Token)] = []
    /// The index of each token in `entries`.
    private var places: [UInt64: Int] = [:]

    public init() {}

    public var count: Int { entries.count }

    /// Nanoseconds on `Clock`; nil when there is none.
    public var nextDeadline: UInt64? { entries.first?.deadline }

    /// The token comes up at `deadline` and at no other time.
    public mutating func set(_ token: Token, at deadline: UInt64) {
        if let place = places[token.rawValue] {
            entries[place].deadline = deadline
            settle(place)
        } else {
            entries.append((deadline, token))
            places[token.rawValue] = entries.count - 1
            settle(entries.count - 1)
        }
    }

    /// The token does not come up, if it was set at all.
    public mutating func cancel(_ token: Token) {
        guard let place = places.removeValue(forKey: token.rawValue) else { return }
        let last = entries.removeLast()
        guard place < entries.count else { return }
        entries[place] = last
        places[last.token.rawValue] = place
        settle(place)
    }

    /// The oldest timer whose deadline has passed.
    public mutating func takeExpired(now: UInt64) -> Token? {
        guard let first = entries.first, first.deadline <= now else { return nil }
        cancel(first.token)
        return first.token
    }

    /// Moves the entry up or down to where its deadline belongs.
    private mutating func settle(_ start: Int) {
        var place = start
        while place > 0 {
            let parent = (place - 1) / 2
            guard entries[place].deadline < entries[parent].deadline else { break }
            exchange(place, parent)
            place = parent
        }
        while true {
            let left = place * 2 + 1
            guard left < entries.count else { return }
            let right = left + 1
            let child = right < entries.count && entries[right].deadline < entries[left].deadline ? right : left
            guard entries[child].deadline < entries[place].deadline else { return }
            exchange(place, child)
            place = child
        }
    }

    private mutating func exchange(_ one: Int, _ other: Int) {
        entries.swapAt(one, other)
        places[entries[one].token.rawValue] = one
        places[entries[other].token.rawValue] = other
    }
}
