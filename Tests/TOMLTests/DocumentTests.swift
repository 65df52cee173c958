import CTOML
import Testing

@Suite struct DocumentTests {
    private struct Entry: Equatable {
        let path: String
        let line: UInt32
        let kind: toml_kind
        var value = ""
    }

    private func read(_ text: String) throws -> [Entry] {
        var why = [CChar](repeating: 0, count: 128)
        var line: UInt32 = 0
        var text = text
        let document = text.withUTF8 { toml_read(UnsafeRawPointer($0.baseAddress!).assumingMemoryBound(to: CChar.self), $0.count, &why, why.count, &line) }
        let found = try #require(document)
        defer { toml_close(found) }
        return (0..<toml_count(found)).map { index in
            let entry = toml_at(found, index)
            let keys = [entry.keys.0, entry.keys.1, entry.keys.2, entry.keys.3].compactMap { $0 }.map { String(cString: $0) }
            let value = entry.string.map { String(cString: $0) } ?? (entry.kind == TOML_INTEGER || entry.kind == TOML_BOOLEAN ? "\(entry.integer)" : "")
            return Entry(path: keys.joined(separator: "/"), line: entry.line, kind: entry.kind, value: value)
        }
    }

    @Test func valuesHaveTheirKeysAndLines() throws {
        let entries = try read(
            """
            # a comment
            [a]
            "x.y" = "text"
            n = 7
            b = true

            [a.t]
            z = { deep = 1.5 }
            list = ["p", "q"]
            """)
        #expect(
            entries == [
                Entry(path: "a", line: 2, kind: TOML_TABLE), Entry(path: "a/x.y", line: 3, kind: TOML_STRING, value: "text"),
                Entry(path: "a/n", line: 4, kind: TOML_INTEGER, value: "7"), Entry(path: "a/b", line: 5, kind: TOML_BOOLEAN, value: "1"),
                Entry(path: "a/t", line: 7, kind: TOML_TABLE), Entry(path: "a/t/z", line: 8, kind: TOML_TABLE),
                Entry(path: "a/t/z/deep", line: 8, kind: TOML_OTHER), Entry(path: "a/t/list", line: 9, kind: TOML_ARRAY),
                Entry(path: "a/t/list", line: 9, kind: TOML_STRING, value: "p"), Entry(path: "a/t/list", line: 9, kind: TOML_STRING, value: "q"),
            ])
    }

    @Test func deeperKeysAreCountedNotKept() throws {
        let last = try #require(try read("[a.b.c.d.e]\nf = 1").last)
        #expect(last.path == "a/b/c/d")
    }

    @Test(arguments: [("[a]\nb = \n", 2), ("a = 1\na = 2\n", 2), ("[a\n", 1), ("x = \"\u{1}\"", 1)] as [(String, UInt32)])
    func whatIsNoTOMLSaysWhere(_ text: String, _ expected: UInt32) {
        var why = [CChar](repeating: 0, count: 16)
        var line: UInt32 = 0
        var text = text
        let document = text.withUTF8 { toml_read(UnsafeRawPointer($0.baseAddress!).assumingMemoryBound(to: CChar.self), $0.count, &why, why.count, &line) }
        #expect(document == nil && line == expected)
        #expect(why[15] == 0 && why[0] != 0, "bounded, and something")
    }
}
