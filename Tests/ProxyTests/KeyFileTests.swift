import Testing
@testable import Proxy

@Suite struct KeyFileTests {
    private let digits = String(repeating: "0f", count: 32)

    @Test func aFreshLineIsAKey() throws {
        let line = try #require(KeyFile.line(name: "notebook"))
        let keys = try KeyFile.parse("# mine\n\n" + line, "file")
        #expect(keys.count == 1 && keys[0].name == "notebook" && keys[0].bytes.count == 32)
        #expect(try KeyFile.parse(try #require(KeyFile.line(name: "notebook")), "file") != keys)
    }

    @Test func aNameMayHaveTwoKeysWhileTheyChange() throws {
        let keys = try KeyFile.parse("a:\(digits)\r\na:\(String(digits.reversed()))\n", "file")
        #expect(keys.map(\.name) == ["a", "a"])
        #expect(keys[0].identity != keys[1].identity)
    }

    @Test(arguments: [
        "", "# nothing", "a", "a:", ":0f", "a:0f", "a b:\(String(repeating: "0f", count: 32))",
        "a:\(String(repeating: "0g", count: 32))", "a:\(String(repeating: "0f", count: 33))",
        "a:\(String(repeating: "0f", count: 32)):b", "\(String(repeating: "n", count: 65)):\(String(repeating: "0f", count: 32))",
        "a:\(String(repeating: "0f", count: 32))\na:\(String(repeating: "0f", count: 32))",
    ]) func whatIsNoKeyIsRefusedAndNotRepeated(text: String) {
        do {
            _ = try KeyFile.parse(text, "file")
            Issue.record("taken: \(text)")
        } catch {
            #expect(error.kind == .configuration)
            #expect(!error.sentence.contains("0f0f") && !error.hint.contains("0f0f"))
        }
    }
}
