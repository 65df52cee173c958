import Foundation
import Testing

/// A newcomer finds the test of a rule by its number: tests cite the rules of docs/protocol.md as `protocol 4.6`, `protocol 4.6, 12.4` or
/// `protocol 4.11 to 4.18`.
struct RuleTests {
    let repository: Repository

    init() throws { repository = try Repository() }

    /// Rules that say what words mean, or what follows from others.
    static let withoutBehaviour: Set<String> = [
        "1.2", "1.3", "1.5", "2.1", "6.8", "8.9", "9.3", "12.2", "12.7",
    ]

    /// Rules whose tests are missing.
    static let untested: Set<String> = ["7.4"]

    @Test func everyRuleIsCitedByATest() throws {
        let rules = Self.rules(in: try #require(repository.file("docs/protocol.md")).lines)
        #expect(rules.count > 100, "the rules were not found")
        let tests = repository.files.filter { $0.path.hasPrefix("Tests/") && $0.path != "Tests/RepositoryTests/RuleTests.swift" }
        let lines = tests.flatMap { $0.lines.filter { $0.contains("protocol ") } }
        let cited = Set(lines.flatMap { Self.citations(in: String($0)) })
        let uncited = rules.subtracting(cited)
        #expect(uncited.sorted() == Self.withoutBehaviour.union(Self.untested).sorted())
        #expect(cited.subtracting(rules) == [], "no such rule")
    }

    @Test func citationsAreRead() {
        #expect(Self.citations(in: "/// protocol 4.6, 12.4") == ["4.6", "12.4"])
        #expect(Self.citations(in: "never (protocol 6.5, 4.9a), as protocol 5.9 says") == ["6.5", "4.9a", "5.9"])
        #expect(Self.citations(in: "replay: protocol 4.11 to 4.13, 5.9)") == ["4.11", "4.12", "4.13", "5.9"])
        #expect(Self.citations(in: "the protocol 4 times").isEmpty)
    }

    /// The vectors of §13 are one rule.
    private static func rules(in lines: [Substring]) -> Set<String> {
        Set(
            lines.compactMap { line in
                guard let found = line.prefixMatch(of: #/([0-9]+\.[0-9]+[a-z]?) /#) else { return nil }
                return found.1.hasPrefix("13.") ? "13.1" : String(found.1)
            }
        )
    }

    private static func citations(in line: String) -> [String] {
        line.matches(of: #/protocol ((?:[0-9]+\.[0-9]+[a-z]?(?:, | to )?)+)/#).flatMap { match in
            match.1.components(separatedBy: ", ").flatMap(expanded)
        }
    }

    private static func expanded(_ words: String) -> [String] {
        let ends = words.components(separatedBy: " to ").map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
        guard ends.count == 2, let first = ends[0].split(separator: ".").last.flatMap({ Int($0) }),
            let last = ends[1].split(separator: ".").last.flatMap({ Int($0) }), first < last
        else { return ends }
        let chapter = ends[0].prefix { $0 != "." }
        return (first...last).map { "\(chapter).\($0)" }
    }
}
