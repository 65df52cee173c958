import Foundation
import Testing

/// What must not stand in any file.
struct TextTests {
    let repository: Repository

    init() throws { repository = try Repository() }

    @Test func noFileNamesAPlaceOnSomebodysMachine() {
        for file in repository.files {
            for (number, line) in file.lines.enumerated() {
                if let place = machinePath(in: line) { Issue.record("\(file.path):\(number + 1) names \(place)") }
            }
        }
    }

    @Test func aMachinePathIsSeen() {
        for folder in machineFolders {
            #expect(machinePath(in: "open(\"\(folder)/x\")") != nil)
            #expect(machinePath(in: "\(folder)/x") != nil)
            #expect(machinePath(in: "see file://\(folder)/x") != nil)
        }
        for line in ["a/work/b", "https://example.org/home/x", "docs/root/x", "/etc/hosts", "~/work"] {
            #expect(machinePath(in: Substring(line)) == nil, "\(line)")
        }
    }

    /// Every sentence of a fault is explained in the specification, and none is explained that nobody says.
    /// protocol 10.3
    @Test func faultsStandInTheSpecification() throws {
        let engine = repository.files.filter { $0.path.hasPrefix("Sources/Engine/") && $0.path.hasSuffix(".swift") }
        let said = Set(engine.flatMap { faults(in: $0.text) })
        let page = try #require(repository.file("docs/protocol.md")).lines
        let section = page.drop { !$0.hasPrefix("10.3 ") }.prefix { !$0.hasPrefix("10.4 ") }
        let rows = section.filter { $0.hasPrefix("| ") && !$0.hasPrefix("| sentence ") }
        let explained = Set(rows.map { String($0.dropFirst(2).prefix { $0 != "|" }.dropLast()) })
        #expect(said.count > 20, "the faults were not found")
        #expect(said.subtracting(explained) == [], "not in docs/protocol.md §10")
        #expect(explained.subtracting(said) == [], "in docs/protocol.md §10, but nobody says it")
    }

    /// The numbers that an endpoint chooses alone stand in the specification as they stand in the code.
    /// protocol 9.2
    @Test func constantsOfTheTunnelStandInTheSpecification() throws {
        let tunnel = repository.files.filter { $0.path.hasPrefix("Sources/Engine/Tunnel/") }
        let page = try #require(repository.file("docs/protocol.md")).lines
        let section = page.drop { !$0.hasPrefix("9.2 ") }.prefix { !$0.hasPrefix("9.3 ") }
        var compared = 0
        for row in section where row.hasPrefix("| `") {
            let cells = row.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
            let names = cells[0].filter { $0 != "`" }.components(separatedBy: ", ")
            let values = cells[1].components(separatedBy: ", ")
            try #require(names.count == values.count, "\(row)")
            for (name, value) in zip(names, values) {
                #expect(constants(name, in: tunnel).contains(value), "\(name)")
                compared += 1
            }
        }
        #expect(compared > 10, "the table was not found")
    }

    /// What `static let name = …` says, in every file that is asked for: `Type.name` asks for the file of that type.
    private func constants(_ name: String, in files: [Repository.File]) -> [String] {
        let parts = name.components(separatedBy: ".")
        let places = parts.count == 1 ? files : files.filter { $0.path.hasSuffix("/\(parts[0]).swift") }
        return places.flatMap(\.lines).compactMap { line in
            guard let declared = line.range(of: "static let \(parts.last!)"), let equals = line.range(of: " = "),
                line[declared.upperBound...].first.map({ " :".contains($0) }) == true
            else { return nil }
            return asWritten(String(line[equals.upperBound...]))
        }
    }

    /// `64 << 10` → 65536, `Interval.milliseconds(20)` → 20 ms, `1024` → 1024.
    private func asWritten(_ expression: String) -> String {
        let numbers = expression.split { !$0.isNumber }.compactMap { Int($0) }
        if expression.contains("<<"), numbers.count == 2 { return String(numbers[0] << numbers[1]) }
        if expression.contains("milliseconds"), numbers.count == 1 { return "\(numbers[0]) ms" }
        if expression.contains("seconds"), numbers.count == 1 { return "\(numbers[0]) s" }
        return expression
    }

    private func faults(in text: String) -> [String] {
        text.components(separatedBy: "ProtocolFault(\"").dropFirst().map { String($0.prefix { $0 != "\"" }) }
    }
}

/// Top folders that lie on one machine only. Put together here, so that this file does not name them.
let machineFolders = ["work", "root", "home", "Users", "tmp/wt", "tmp/brief"].map { "/" + $0 }

/// The machine's path that stands in a line, if one does: it starts behind nothing that could belong to another path.
func machinePath(in line: Substring) -> String? {
    for folder in machineFolders {
        var rest = line
        while let range = rest.range(of: folder + "/") {
            let before = rest[..<range.lowerBound].last
            let isInside = before.map { $0.isLetter || $0.isNumber || "._-~)}".contains($0) } ?? false
            if !isInside { return folder }
            rest = rest[range.upperBound...]
        }
    }
    return nil
}
