import Loop

/// Which loop of a process gets an accepted connection. The first loop has it, and all listeners.
struct Dispatcher {
    private let stations: [LoopGroup.Station]
    /// Accepted connections that were given to each, so far.
    private(set) var given: [Int]
    /// Where the next choice among equals begins.
    private var turn = 0
    /// When each was last given one since it turned, and how many turns it had made then.
    private var asked: [(at: UInt64, turns: Int)]

    init(_ stations: [LoopGroup.Station]) {
        self.stations = stations
        given = [Int](repeating: 0, count: stations.count)
        asked = [(UInt64, Int)](repeating: (0, 0), count: stations.count)
    }

    /// Some loop has room for one more user.
    var hasRoom: Bool { stations.contains { readiness(of: $0) != .full } }

    /// The loop that has least to do, of those in the best state.
    mutating func next(now: UInt64) -> Int {
        turn = (turn + 1) % stations.count
        var (best, bestRank) = (0, (state: UInt8(0), load: Int.max))
        for offset in 0..<stations.count {
            let loop = (turn + offset) % stations.count
            let state = isStanding(loop, now: now) ? LoopGroup.Readiness.full.rawValue : readiness(of: stations[loop]).rawValue
            let load = stations[loop].load.load(ordering: .relaxed) + untaken(loop)
            guard state > bestRank.state || state == bestRank.state && load < bestRank.load else { continue }
            (best, bestRank) = (loop, (state, load))
        }
        if untaken(best) <= 0 || turns(of: best) != asked[best].turns { asked[best] = (now, turns(of: best)) }
        given[best] += 1
        return best
    }

    private func readiness(of station: LoopGroup.Station) -> LoopGroup.Readiness {
        LoopGroup.Readiness(rawValue: station.readiness.load(ordering: .relaxed)) ?? .full
    }

    private func untaken(_ loop: Int) -> Int { given[loop] - stations[loop].received.load(ordering: .relaxed) }
    private func turns(of loop: Int) -> Int { stations[loop].turns.load(ordering: .relaxed) }

    /// It was woken for a connection, and has not turned for a while: who comes now would wait as long as it stands.
    private func isStanding(_ loop: Int, now: UInt64) -> Bool {
        untaken(loop) > 0 && turns(of: loop) == asked[loop].turns && now > asked[loop].at + Policy.standingPatience.nanoseconds
    }
}
