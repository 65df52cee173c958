import Testing

/// The log's events are frozen: people filter and alert on their words. docs/events.md lists them all, with their levels.
struct EventTests {
    let repository: Repository

    init() throws { repository = try Repository() }

    @Test func everyEventIsListedWithItsLevels() throws {
        let source = try #require(repository.file("Sources/Engine/Relay/Telemetry/EventLog.swift")).lines.joined(separator: "\n")
        let events = Self.events(in: source)
        #expect(events.count > 40, "the events were not found")
        var listed: [String: Set<String>] = [:]
        for line in try #require(repository.file("docs/events.md")).lines where line.hasPrefix("| `") {
            let cells = line.split(separator: "|").map { $0.trimming(" ") }
            listed[cells[0].trimming("`")] = Set(cells[1].split(separator: ",").map { $0.trimming(" ") })
        }
        for (event, levels) in events { #expect(listed[event] == levels, "\(event): \(levels.sorted())") }
        #expect(Set(listed.keys).subtracting(events.keys).isEmpty)
    }

    @Test func eventsAreFound() {
        let source = """
            Line(.info, "one", facts)
            Line(
                isUrgent ? .error : .warning, "two",
                ["hint": "a, b"])
            Line(code == .full ? .warning : .info, code == .unknown ? "three" : "four", [:])
            case .last: Line(.error, "five for \\(what)")
            """
        #expect(
            Self.events(in: source) == [
                "one": ["info"], "two": ["error", "warning"], "three": ["warning", "info"], "four": ["warning", "info"], "five for …": ["error"],
            ])
    }

    private static let levels: Set<String> = ["trace", "debug", "info", "notice", "warning", "error", "critical"]

    /// The words of each `Line(level, words, …)`, with the levels that it may have.
    private static func events(in source: String) -> [String: Set<String>] {
        var events: [String: Set<String>] = [:]
        for part in source.split(separator: "Line(", omittingEmptySubsequences: false).dropFirst() {
            let (first, rest) = argument(part)
            let levels = Set(first.split(whereSeparator: { !$0.isLetter }).map(String.init)).intersection(Self.levels)
            for words in literals(argument(rest).text) { events[words, default: []].formUnion(levels) }
        }
        return events.filter { !$0.value.isEmpty }
    }

    /// The text until the comma or the parenthesis that ends an argument, and what follows.
    private static func argument(_ text: Substring) -> (text: Substring, rest: Substring) {
        var depth = 0
        var isQuoted = false
        for index in text.indices {
            switch text[index] {
            case "\"": isQuoted.toggle()
            case "(", "[", "{": if !isQuoted { depth += 1 }
            case ")", "]", "}":
                if isQuoted { continue }
                if depth == 0 { return (text[..<index], "") }
                depth -= 1
            case "," where depth == 0 && !isQuoted: return (text[..<index], text[text.index(after: index)...])
            default: break
            }
        }
        return (text, "")
    }

    /// Strings in quotes. What is put into them stands as an ellipsis.
    private static func literals(_ text: Substring) -> [String] {
        text.split(separator: "\"", omittingEmptySubsequences: false).enumerated().filter { $0.offset % 2 == 1 }
            .map { $0.element.prefix { $0 != "\\" } + ($0.element.contains("\\") ? "…" : "") }.map { String($0) }
    }
}

extension StringProtocol {
    func trimming(_ edge: Character) -> String {
        String(drop { $0 == edge }.reversed().drop { $0 == edge }.reversed())
    }
}
