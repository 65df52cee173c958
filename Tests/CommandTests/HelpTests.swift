import Glibc
import Testing

/// What tele says about itself, and how it treats a reader that is not there.
@Suite struct HelpTests {
    @Test(arguments: ["", "help", "-help", "--help", "-h", "-server -help", "-help=true"])
    func helpScreenHasTheDiagramAndEveryFlag(_ words: String) throws {
        let outcome = try Program.run(words.split(separator: " ").map(String.init))
        #expect(outcome.status == 0)
        #expect(outcome.errors == "")
        for part in [
            "CLIENT-SIDE", "UNRELIABLE NETWORK", "SERVER-SIDE", "tele client", "tele server", "tele demo",
        ] {
            #expect(outcome.output.contains(part), "\(part)")
        }
        let flags = [
            "-client", "-server", "-in=", "-out=", "-io=", "-buffer=", "-memory=", "-hold=", "-max-streams=",
            "-max-sessions=", "-drain=", "-log-format=", "-log-level=", "-version", "-help",
        ]
        for flag in flags { #expect(outcome.output.contains(flag), "\(flag)") }
        #expect(
            outcome.output.split(separator: "\n").allSatisfy { $0.count < 80 && $0.utf8.count == $0.count })
    }

    @Test(arguments: ["demo -help", "demo --help", "demo -h", "help demo"])
    func demoHasHelpOfItsOwn(_ words: String) throws {
        let outcome = try Program.run(words.split(separator: " ").map(String.init))
        #expect(outcome.status == 0)
        for flag in ["-seconds=", "-faults=", "-io=", "-binary="] { #expect(outcome.output.contains(flag)) }
    }

    @Test(arguments: ["-version", "--version", "-server -version"])
    func versionIsTwoLines(_ words: String) throws {
        let outcome = try Program.run(words.split(separator: " ").map(String.init))
        let lines = outcome.output.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(outcome.status == 0)
        #expect(lines.count == 3 && lines.last == "")
        #expect(lines.first == "tele 0.1.0")
        #expect(lines.dropFirst().first?.hasPrefix("linux ") == true)
    }

    @Test(arguments: ["bash", "zsh", "fish"])
    func shellsGetCompletionScripts(_ shell: String) throws {
        let outcome = try Program.run(["--generate-completion-script", shell])
        #expect(outcome.status == 0)
        #expect(outcome.output.contains("tele") && outcome.output.contains("max-streams"))
    }

    /// As bash asks: the words are split at equals signs.
    @Test(arguments: [
        (["tele", "-io", "="], "auto uring epoll"), (["tele", "-io", "=", "u"], "uring"), (["tele", "-io", "e"], "epoll"),
        (["tele", "-config", "=", "/etc/debian_v"], "/etc/debian_version"), (["tele", "help", "rec"], "reconnect"),
        (["tele", "-log-format", "=", "j"], "json"),
    ]) func bashCompletesBehindEqualsSigns(_ words: [String], _ expected: String) throws {
        let script = try Program.run(["--generate-completion-script", "bash"]).output
        let line = words.joined(separator: " ").replacing(" = ", with: "=").replacing(" =", with: "=")
        let quoted = words.map { "'\($0)'" }.joined(separator: " ")
        let outcome = try Program.run(
            [],
            through: [
                "/bin/bash", "-c",
                """
                shopt -s extglob; \(script)
                COMP_WORDS=(\(quoted)); COMP_CWORD=\(words.count - 1); COMP_LINE='\(line)'; COMP_POINT=\(line.utf8.count); COMP_TYPE=9; COMP_KEY=9
                _tele_behind_equals tele "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2> /dev/null; echo "${COMPREPLY[@]}"
                """,
            ])
        #expect(outcome.output.split(whereSeparator: \.isWhitespace).joined(separator: " ") == expected)
    }

    @Test func unknownShellIsRefused() throws {
        let outcome = try Program.run(["--generate-completion-script", "tcsh"])
        #expect(outcome.status == 64)
        #expect(outcome.errors.hasPrefix("tele: error: "))
    }

    @Test func readerThatLeavesIsNoFailure() throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        close(ends[0])
        defer { close(ends[1]) }
        let outcome = try Program.run([], output: .descriptor(ends[1]))
        #expect(outcome.status == 0)
        #expect(outcome.errors == "")
    }

    @Test func headTakesOneLine() throws {
        let outcome = try Program.run(
            [], through: ["/bin/bash", "-c", "set -o pipefail; \"$0\" \"$@\" | head -1"])
        #expect(outcome.status == 0)
        #expect(outcome.output.split(separator: "\n").count == 1)
        #expect(outcome.errors == "")
    }

    @Test func closedOutputIsTold() throws {
        let outcome = try Program.run(["-version"], output: .closed)
        #expect(outcome.status == 1)
        #expect(
            outcome.errors.hasPrefix(
                "tele: error: cannot write to stdout (bad file descriptor)\ntele: hint: "))
    }

    @Test func fullDiskIsTold() throws {
        let full = open("/dev/full", O_WRONLY)
        defer { close(full) }
        let outcome = try Program.run(["-version"], output: .descriptor(full))
        #expect(outcome.status == 1)
        #expect(outcome.errors.hasPrefix("tele: error: cannot write to stdout (no space left on device)\n"))
    }

    @Test func closedErrorsChangeNoStatus() throws {
        #expect(try Program.run(["-nonsense"], errors: .closed).status == 64)
        #expect(try Program.run(["-version"], errors: .closed).status == 0)
    }
}
