import Foundation
import Testing
import Wire

/// docs/protocol.md shows what the code does: the golden bytes, the types, the constants.
struct DocumentTests {
    let lines: [Substring]

    init() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let text = try String(contentsOf: root.appending(path: "docs/protocol.md"), encoding: .utf8)
        lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    }

    /// protocol 13.1
    @Test func theGoldenVectorsAreTheSameBytes() throws {
        let shown = try vectors()
        let held = goldenAll.map { ($0.number, $0.bytes) } + goldenHellos.map { ($0.number, $0.bytes) }
        for (number, bytes) in held {
            #expect(shown[number] == bytes, "vector \(number)")
        }
        #expect(Set(shown.keys) == Set(held.map(\.0)))
    }

    /// protocol 3.4
    @Test func theTypesAreTheSame() {
        let rows = cells(after: "## 3 Frames", before: "## 4 Handshake").filter { $0[0].hasPrefix("`0x") }
        let shown = Dictionary(
            uniqueKeysWithValues: rows.compactMap { row in
                UInt8(row[0].dropFirst(3).dropLast(), radix: 16).map { ($0, row[1]) }
            })
        #expect(
            shown == [
                FrameType.acknowledgment: "ACK", FrameType.ping: "PING", FrameType.pong: "PONG", FrameType.close: "CLOSE",
                FrameType.subflows: "SUBFLOWS",
                FrameType.welcome: "WELCOME", FrameType.refuse: "REFUSE", FrameType.open: "OPEN", FrameType.data: "DATA",
                FrameType.fin: "FIN", FrameType.reset: "RESET", FrameType.streamCredit: "STREAM_CREDIT",
                FrameType.sequenced: "sequenced", FrameType.optional: "optional",
            ])
    }

    /// protocol 9.1
    @Test func theConstantsAreTheSame() {
        let rows = cells(after: "## 9 Constants", before: "9.2 ").filter { $0[0].hasPrefix("`") }
        let shown = Dictionary(uniqueKeysWithValues: rows.map { ($0[0].filter { $0 != "`" }, UInt64($0[1])) })
        #expect(
            shown == [
                "version": UInt64(Specification.version),
                "dataBodyMaximum": UInt64(Specification.dataBodyMaximum),
                "controlBodyMaximum": UInt64(Specification.controlBodyMaximum),
                "prefaceByteCount": UInt64(Specification.prefaceByteCount),
                "helloBodyMaximum": UInt64(Specification.helloBodyMaximum),
                "reasonMaximum": UInt64(Specification.reasonMaximum),
                "initialCreditMaximum": Specification.initialCreditMaximum,
                "earlyMaximum": UInt64(Specification.earlyMaximum),
                "subflowsMaximum": UInt64(Specification.subflowsMaximum),
                "subflowNumberMaximum": Specification.subflowNumberMaximum,
                "chunkMaximum": UInt64(Specification.chunkMaximum),
                "offsetMaximum": Specification.offsetMaximum,
            ])
    }

    // MARK: Reading the page

    /// The vectors of §13, by number.
    private func vectors() throws -> [String: [UInt8]] {
        let start = try #require(lines.firstIndex { $0.hasPrefix("## 13 ") })
        var result: [String: [UInt8]] = [:]
        var number: String?
        for line in lines[start...] {
            if line.hasPrefix("13.") {
                number = line.split(separator: " ").first.map(String.init)
                number.map { result[$0] = [] }
            } else if line.isEmpty || line.hasPrefix("```") {
                number = nil
            } else if let number {
                result[number]! += bytes(String(line))
            }
        }
        return result
    }

    /// The rows of the tables between two lines, as their cells.
    private func cells(after start: String, before end: String) -> [[String]] {
        let section = lines.drop { !$0.hasPrefix(start) }.prefix { !$0.hasPrefix(end) }
        return section.filter { $0.hasPrefix("|") }.map { row in
            row.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
        }
    }
}
