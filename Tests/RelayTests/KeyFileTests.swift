import Glibc
import Testing
@testable import Relay

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

/// Who else may touch the file: service managers hand secrets over with bits of the group.
@Suite struct KeyFileModeTests {
    @Test(arguments: [(0o600, true), (0o400, true), (0o440, true), (0o640, true), (0o644, false), (0o660, false), (0o604, false), (0o620, false)])
    func onlyNamedGroupsMayReadIt(_ mode: Int, _ isFine: Bool) throws {
        var path = Array("/tmp/tele-key-XXXXXX".utf8CString)
        let fd = mkstemp(&path)
        let name = String(decoding: path.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer { unlink(name) }
        let line = try #require(KeyFile.line(name: "a"))
        #expect(write(fd, line, line.utf8.count) == line.utf8.count && fchmod(fd, mode_t(mode)) == 0 && close(fd) == 0)
        if isFine {
            #expect(try KeyFile(path: name).keys.count == 1)
        } else {
            let fault = #expect(throws: StartFault.self) { try KeyFile(path: name) }
            #expect(fault?.sentence.contains("(mode \(String(mode, radix: 8)), owner \(geteuid()))") == true)
        }
    }
}
