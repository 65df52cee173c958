import Testing

@testable import tele

@Suite struct SshWordsTests {
    private func words(_ line: String) throws -> SshWords { try SshWords(line.split(separator: " ").map(String.init)) }

    /// What ssh gets is what ssh would have made of the same words: options, `--`, the host, the command.
    @Test(arguments: [
        ("host", "-- host"), ("-v host ls -l", "-v -- host ls -l"), ("-p 22 -i key me@host", "-p 22 -i key -- me@host"),
        ("-vvp22 host", "-v -v -p 22 -- host"), ("-vvp 22 host", "-v -v -p 22 -- host"),
        ("-o A=b -L 1:h:2 host -- x -v", "-o A=b -L 1:h:2 -- host x -v"),
        ("-- host x", "-- host x"), ("-- host -v x", "-- host -v x"), ("-4tA host", "-4 -t -A -- host"),
        ("host -p 23 -N", "-p 23 -N -- host"), ("host -t ls -l", "-t -- host ls -l"),
        ("-V", "-V"), ("-G host", "-G -- host"), ("-S mine -O check host", "-S mine.tele -O check -- host"), ("-S none host", "-S none -- host"),
        // Ours, wherever they stand before the command.
        ("-copy host", "-- host"), ("-F x -copy host ls", "-F x -- host ls"), ("host -port=5 ls", "-- host ls"), ("--port 5 host", "-- host"),
        ("host ls -copy", "-- host ls -copy"), ("-p 22 --copy -v host", "-p 22 -v -- host"),
    ])
    func theWordsAreReadAsSshReadsThem(_ line: String, _ expected: String) throws {
        #expect(try words(line).all.joined(separator: " ") == expected)
    }

    @Test func oursAreUnderstoodInEveryPlace() throws {
        let read = try words("-F x -copy -p 22 host -port=40300 ls")
        #expect(read.copies && read.port == 40300 && read.host == "host" && read.command == ["ls"])
        #expect(try words("host -port 7").port == 7)
        #expect(try !words("host ls -copy").copies)
    }

    @Test(arguments: ["-V", "-G host", "-Q cipher", "-O exit host", "-v"])
    func whatConnectsNowhereIsSshsAlone(_ line: String) throws { #expect(try !words(line).connects) }

    @Test(arguments: ["-p", "-o A=b -L", "-- -oProxyCommand=x", "host -port=0", "host -port=x", "-port"])
    func whatCannotBeReadIsRefused(_ line: String) { #expect(throws: CommandError.self) { try words(line) } }

    /// A connection of our own goes the same way, as the same user, and does nothing of what the session shall do.
    @Test func onlyTheWayIsTaken() throws {
        let read = try words("-4 -N -L 1:h:2 -i key -o A=b -t -W x:1 -l me -f host ls")
        #expect(SshWords.spelled(read.ofConnection) == ["-4", "-i", "key", "-o", "A=b", "-l", "me"])
    }

    @Test(arguments: [[], ["a"], ["", "a b", "3:x", "ä\n'\"", "-o", "X=%h"]])
    func wordsAreCarriedAsTheyAre(_ given: [String]) { #expect(SshWords.unpacked(SshWords.packed(given)) == given) }

    @Test(arguments: ["x", "5:abc", "-1:", "99999999999999999999:a"])
    func whatIsNotPackedIsNotUnpacked(_ text: String) { #expect(SshWords.unpacked(text) == nil) }

    @Test func aPathForAProxyCommandIsQuotedForEveryShellAndForSsh() {
        #expect(quotedForProxyCommand("/usr/bin/tele") == "/usr/bin/tele")
        #expect(quotedForProxyCommand("/a b/100%/it's!") == #"/a\ b/100%%/it\'s\!"#)
        #expect(quotedForProxyCommand("/a\nb") == nil)
    }
}
