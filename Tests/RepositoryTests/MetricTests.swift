import Testing

/// The metrics are frozen: dashboards and alerts use their names. docs/metrics.md lists them all, with type and meaning.
struct MetricTests {
    let repository: Repository

    init() throws { repository = try Repository() }

    @Test func everyMetricIsListed() throws {
        let metrics = try #require(repository.file("Sources/Engine/Relay/Telemetry/Metrics.swift")).lines.joined(separator: "\n")
        let histograms = try #require(repository.file("Sources/Engine/Relay/Telemetry/Histograms.swift")).lines.joined(separator: "\n")
        var written: [String: [String]] = [:]
        for match in metrics.matches(of: /page\.(gauge|counter)\(\s*"([^"]+)", "([^"]+)"/) {
            for (label, what) in [("mapping", "Connections of this mapping"), ("client", "Sessions of this client")] {
                func filled(_ text: Substring) -> String {
                    String(text).replacing(#"\(label)"#, with: label).replacing(#"\(what)"#, with: what)
                }
                written[filled(match.2)] = [String(match.1), filled(match.3)]
            }
        }
        for match in histograms.matches(of: /\("(tele_\w+)", "([^"]+)",/) { written[String(match.1)] = ["histogram", String(match.2)] }
        #expect(written.count > 50, "the metrics were not found")
        var listed: [String: [String]] = [:]
        for line in try #require(repository.file("docs/metrics.md")).lines where line.hasPrefix("| `") {
            let cells = line.split(separator: "|").map { $0.trimming(" ") }
            listed[cells[0].trimming("`")] = [cells[1], cells[3]]
        }
        for (name, facts) in written { #expect(listed[name] == facts, "\(name)") }
        #expect(Set(listed.keys).subtracting(written.keys).isEmpty)
    }
}
