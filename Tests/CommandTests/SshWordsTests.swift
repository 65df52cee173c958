import Testing

@testable import tele

@Suite struct SshWordsTests {
    @Test(arguments: [
        ("host", "", "host", ""), ("-v host ls -l", "-v", "host", "ls -l"), ("-p 22 -i key me@host", "-p 22 -i key", "me@host", ""),
        ("-vvp22 host", "-vvp22", "host", ""), ("-vvp 22 host", "-vvp 22", "host", ""), ("-o A=b -L 1:h:2 host -- x", "-o A=b -L 1:h:2", "host", "-- x"),
        ("-- host x", "", "host", "x"), ("-4tA host", "-4tA", "host", ""),
    ])
    func theHostIsFound(_ line: String, _ options: String, _ host: String, _ command: String) throws {
        let words = try SshWords(line.split(separator: " ").map(String.init), isComplete: true)
        #expect(words.options.joined(separator: " ") == options && words.host == host && words.command.joined(separator: " ") == command)
    }

    @Test(arguments: ["", "-v", "-p", "-p 22", "-- -oProxyCommand=x", "--"])
    func withoutAHostItIsRefused(_ line: String) {
        #expect(throws: UsageFault.self) { try SshWords(line.split(separator: " ").map(String.init), isComplete: true) }
    }

    @Test func theRouteIsAsSshSays() throws {
        let route = try SshRoute(answer: "user me\nhostname 10.0.0.1\nport 2222\nproxycommand none\n", host: "h")
        #expect(route.host == "10.0.0.1" && route.port == 2222 && route.address(5) == "10.0.0.1:5")
        #expect(try SshRoute(answer: "hostname ::1\n", host: "h").address(5) == "[::1]:5")
        #expect(throws: SshCommand.Trouble.self) { try SshRoute(answer: "hostname a\nproxyjump bastion\n", host: "h") }
    }

    @Test func aWordForAShellIsQuoted() {
        #expect(quotedForShell("a b") == "'a b'")
        #expect(quotedForShell("it's") == #"'it'\''s'"#)
    }
}
