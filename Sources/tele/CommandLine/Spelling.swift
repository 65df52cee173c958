/// What a mistyped word was meant to be.
enum Spelling {
    /// The candidate fewest edits away, if that is few enough for the length of the word; nil when nothing is
    /// near.
    static func nearest(to word: String, among candidates: [String]) -> String? {
        let word = word.lowercased()
        // `-output`, `-mem`: the beginning of one is the other.
        if let longer = candidates.first(where: {
            word.hasPrefix($0) || (word.count > 2 && $0.hasPrefix(word))
        }) {
            return longer
        }
        let ranked = candidates.map { (name: $0, edits: edits(from: word, to: $0)) }
        guard let best = ranked.min(by: { $0.edits < $1.edits }) else { return nil }
        let isNear = best.edits <= min(3, max(best.name.count, word.count) / 2)
        return isNear && (best.edits == 1 || best.name.first == word.first) ? best.name : nil
    }

    /// Insertions, deletions, replacements and swaps of neighbours (Damerau-Levenshtein, optimal string
    /// alignment).
    static func edits(from left: String, to right: String) -> Int {
        let a = Array(left.utf8.prefix(64))
        let b = Array(right.utf8.prefix(64))
        var before: [Int] = []
        var above = Array(0...b.count)
        for i in a.indices {
            var row = [i + 1]
            for j in b.indices {
                var cost = min(above[j + 1] + 1, row[j] + 1, above[j] + (a[i] == b[j] ? 0 : 1))
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { cost = min(cost, before[j - 1] + 1) }
                row.append(cost)
            }
            (before, above) = (above, row)
        }
        return above[b.count]
    }
}
