import Testing

/// A command line that must be refused, and the words.
struct Refusal: CustomTestStringConvertible, Sendable {
    let words: String
    let sentence: String
    let hint: String
    var testDescription: String { "tele \(words)" }

    init(_ words: String, _ sentence: String, _ hint: String) {
        (self.words, self.sentence, self.hint) = (words, sentence, hint)
    }
}

/// Everything that tele refuses before it does anything: status 64, nothing on stdout, one sentence, one
/// hint.
@Suite struct RefusalTests {
    static let flags = "run \"tele -help\" for the list of flags"
    static let durations = "write a number and a unit, for example 500ms, 10s, 5m, 24h or 7d"
    static let sizes = "write bytes or a unit, for example 65536, 512KiB, 64MiB or 1GB"
    static let addresses = "write HOST:PORT, :PORT, [IPV6]:PORT or unix:/PATH, for example -in=localhost:22"

    static let unknown = [
        Refusal("-sever -in=:22", "there is no flag -sever", "did you mean -server?"),
        Refusal("--clinet -out=h:1", "there is no flag -clinet", "did you mean -client?"),
        Refusal("-server -inn=:22", "there is no flag -inn", "did you mean -in?"),
        Refusal("-server -in=:22 -ouput=:1", "there is no flag -ouput", "did you mean -out?"),
        Refusal("-bufer=1MiB", "there is no flag -bufer", "did you mean -buffer?"),
        Refusal("-max-stream=1", "there is no flag -max-stream", "did you mean -max-streams?"),
        Refusal("-log-fromat=json", "there is no flag -log-fromat", "did you mean -log-format?"),
        Refusal("-HELP", "there is no flag -HELP", "did you mean -help?"),
        Refusal("-client -input=:22", "there is no flag -input", "did you mean -in?"),
        Refusal("-mem=1GiB", "there is no flag -mem", "did you mean -memory?"),
        Refusal("-port=1", "there is no flag -port", flags),
        Refusal("-compress", "there is no flag -compress", flags),
        Refusal("-", "unexpected argument \"-\"", flags),
        Refusal("--", "unexpected argument \"--\"", flags),
        Refusal("---server", "unexpected argument \"---server\"", flags),
        Refusal("server", "unexpected argument \"server\"", "flags begin with a dash: -server"),
        Refusal("in=:22", "unexpected argument \"in=:22\"", "flags begin with a dash: -in=:22"),
        Refusal("stop", "there is no command \"stop\"", "did you mean \"tele drain\"?"),
        Refusal("dmeo", "there is no command \"dmeo\"", "did you mean \"tele demo\"?"),
        Refusal("serve-me", "unexpected argument \"serve-me\"", flags),
        Refusal(
            "-server true -in=:22", "unexpected argument \"true\"",
            "a flag without a value of its own takes it after =, as in -server=true"),
        Refusal(
            "help tele", "there is no help about \"tele\"",
            "\"tele help\", and \"tele help\" with the name of a command, are all there is"),
        Refusal("demo -second=9", "there is no flag -second", "did you mean -seconds?"),
    ]

    static let servers = [
        Refusal("-client -out=h:1,", "-out= has no port", outAddresses),
        Refusal("-client -out=h:1,h:0", "-out=h:0 has port 0, which cannot be dialled", "write the port that is listened on there"),
        Refusal("-client -out=h:1,g:1,h:1", "-out=h:1,g:1,h:1 names h:1 twice", "each server once, the preferred one first"),
        Refusal(
            "-client -out=" + (1...17).map { "h:\($0)" }.joined(separator: ","), "-out names 17 servers", "a client has at most 16"),
        Refusal(
            "-server -in=:22 -out=h:1,g:1", "-out=h:1,g:1 is a list, and a server listens on one address",
            "only -out of a client is a list of servers"),
        Refusal("-server -in=:22 -failover=3s", "-failover is a flag of the client, which has the servers", "leave it out, or use it with -client"),
        Refusal("-server -in=:22 -carriers=2", "-carriers is a flag of the client, which dials them", "leave it out, or use it with -client"),
        Refusal(
            "-client -out=h:1 -paths=eth0 -proxy=http://p:1", "-paths and -proxy are both given",
            "-paths chooses how the server is reached; leave it out to go through the proxy"),
        Refusal("-client -out=h:1 -threads=65", "-threads=65 is out of range", "-threads takes auto, or 1 to 64"),
        Refusal("-client -out=h:1 -threads=2 -keeper=always", "-keeper=always works with one thread only", "leave out -threads, or -keeper"),
        Refusal("-client -out=h:1 -carriers=9", "-carriers=9 is out of range", "-carriers takes auto, or 1 to 8"),
        Refusal("-client -out=h:1 -failover=2d", "-failover=2d is out of range", "-failover takes 0s to 1d"),
    ]
    static let outAddresses = "write HOST:PORT, :PORT, [IPV6]:PORT or unix:/PATH, for example -out=localhost:22"

    static let proxyURL = "write -proxy=http://HOST:PORT or -proxy=socks5://HOST:PORT"
    static let proxies = [
        Refusal("-client -out=h:1 -proxy=proxy:3128", "-proxy=proxy:3128 is not a proxy's URL", proxyURL),
        Refusal("-client -out=h:1 -proxy=ftp://proxy:1", "-proxy=ftp://proxy:1 is not a proxy's URL", proxyURL),
        Refusal("-client -out=h:1 -proxy=http://proxy", "-proxy=http://proxy has no port", proxyURL),
        Refusal("-client -out=h:1 -proxy=http://:3128", "-proxy=http://:3128 has no host and port to dial", proxyURL),
        Refusal(
            "-client -out=h:1 -proxy=http://me:secret@proxy:3128", "-proxy contains a password, which everybody on this host could see",
            "put USER:PASSWORD into a file: -proxy-auth=FILE"),
        Refusal(
            "-client -out=h:1 -proxy=http://me@proxy:3128", "-proxy names a user, whose password is missing",
            "put USER:PASSWORD into a file: -proxy-auth=FILE"),
        Refusal("-client -out=h:1 -proxy-auth=f", "-proxy-auth needs -proxy", "write -proxy=http://HOST:PORT too, or leave it out"),
        Refusal(
            "-server -in=:22 -proxy=http://proxy:3128", "-proxy is a flag of the client, which dials the server", "leave it out, or use it with -client"),
        Refusal("-client -out=unix:/tmp/a -proxy=http://proxy:1", "-proxy cannot reach unix:/tmp/a, a socket on this host", "leave -proxy out"),
        Refusal(
            "-server -in=:22 -refuse-after=3s", "-refuse-after is a flag of the side where users connect, here the client",
            "leave it out, or use it with -client"),
        Refusal("-server -reverse=:0", "-reverse=:0 has port 0", "write the port that users of the server connect to, for example -reverse=:8080"),
        Refusal("-client -out=h:1 -reverse=:0", "-reverse=:0 has port 0, which cannot be dialled", "write the port that is listened on there"),
        Refusal(
            "-client -out=h:1 -in=:80 -reverse=localhost:80", "-reverse is localhost:80, where this tele client itself listens",
            "on a client, -reverse is the address of a server beside it"),
        Refusal(
            "-server -out=:80 -reverse=127.0.0.1:80", "-reverse and -out both listen at :80 (127.0.0.1:80)", "give one of them another port or address"),
        Refusal("-server -in=:22 -kind=socks5", "-kind is a flag of the client, where users connect", "leave it out, or use it with -client"),
        Refusal("-server -in=:22 -passwords=f", "-passwords is a flag of the client, where users connect", "leave it out, or use it with -client"),
        Refusal("-client -out=h:1 -passwords=f", "-passwords needs -kind=socks5 or -kind=http-connect", "others do not ask for a password"),
        Refusal("-client -out=h:1 -kind=sock", "-kind cannot be \"sock\"", "-kind is fixed, socks5, http-connect or transparent"),
        Refusal("-client -out=h:1 -destinations=a:1", "-destinations is a flag of the server, which dials them", "leave it out, or use it with -server"),
        Refusal(
            "-server -destinations=127.1:80", "-destinations has \"127.1:80\", which is not HOST:PORT",
            "write a name (* stands for any characters but a dot), an address or a network, and a port, a range or *: \"*.example.com:443\", \"10.2.0.0/16:8000-8100\""
        ),
        Refusal("-server -destinations=,", "-destinations lists nothing", "write HOST:PORT, or leave it out to allow no destination"),
        Refusal("-client -out=h:1 -refuse-after=soon", "-refuse-after cannot be \"soon\", which is not a duration", durations),
    ]

    static let roles = [
        Refusal(
            "-client -server -in=:1 -out=:2", "-client and -server are both given",
            "one process is one of them; start two"),
        Refusal(
            "-in=:1 -out=:2", "neither -client nor -server is given",
            "-client runs beside your client, -server beside your server; \"tele\" shows both"),
        Refusal(
            "-server -in=:1 -cert=a -cert-key=b -ca=c -allow=,", "-allow=, lists no names", "write -allow=NAME,NAME, or omit -allow to accept every name"),
        Refusal(
            "-server=false -in=:1", "neither -client nor -server is given",
            "-client runs beside your client, -server beside your server; \"tele\" shows both"),
        Refusal("-server=maybe", "-server is true or false, not \"maybe\"", "write -server or -server=false"),
        Refusal(
            "-client -in=:1", "-out is missing, the address of the tele server",
            "write -out=HOST:PORT, the same as -out of the tele server"),
        Refusal(
            "-server -out=:1", "-in is missing, the address of your server",
            "write -in=HOST:PORT, for example -in=:22 for sshd on this machine"),
    ]

    static let unusable = [
        Refusal("-server -in=22", "-in=22 has no port", "did you mean -in=:22?"),
        Refusal(
            "-server -in=host:", "-in=host: needs a port from 0 to 65535 after its last colon", addresses),
        Refusal(
            "-server -in=host:65536", "-in=host:65536 needs a port from 0 to 65535 after its last colon",
            addresses),
        Refusal(
            "-server -in=host:ssh", "-in=host:ssh needs a port from 0 to 65535 after its last colon",
            addresses),
        Refusal(
            "-server -in=::1:22",
            "-in=::1:22 has more than one colon; write an IPv6 address in brackets, as [::1]:22", addresses),
        Refusal("-server -in=[::1:22", "-in=[::1:22 opens a bracket that it does not close", addresses),
        Refusal("-server -in=a_\u{e9}:22", "-in=a_\u{e9}:22 is not a host name or an address", addresses),
        Refusal(
            "-server -in=host:0", "-in=host:0 has port 0, which cannot be dialled",
            "write the port that is listened on there"),
        Refusal(
            "-client -out=:0", "-out=:0 has port 0, which cannot be dialled",
            "write the port that is listened on there"),
        Refusal("-server -in", "-in needs a value", "write it as -in=:22"),
        Refusal("-server -in -out=:1", "-in needs a value", "write it as -in=:22"),
        Refusal("-server -in=", "-in needs a value", "write it as -in=:22"),
    ]

    static let values = [
        Refusal("-buffer=big", "-buffer cannot be \"big\", which is not a size", sizes),
        Refusal("-buffer=64M", "-buffer cannot be \"64M\", which is not a size", sizes),
        Refusal("-buffer=-1", "-buffer cannot be \"-1\", which is not a size", sizes),
        Refusal("-buffer=1.5GiB", "-buffer cannot be \"1.5GiB\", which is not a size", sizes),
        Refusal(
            "-buffer=99999999999999999999", "-buffer cannot be \"99999999999999999999\", which is not a size",
            sizes),
        Refusal(
            "-buffer=9007199254740993KiB", "-buffer cannot be \"9007199254740993KiB\", which is not a size",
            sizes),
        Refusal("-buffer=1048575", "-buffer=1048575 is out of range", "-buffer takes 1MiB to 16GiB"),
        Refusal("-buffer=17GiB", "-buffer=17GiB is out of range", "-buffer takes 1MiB to 16GiB"),
        Refusal(
            "-memory=63MiB", "-memory is less than -buffer, so one session could not fill its buffer",
            "raise -memory or lower -buffer"),
        Refusal(
            "-memory=2MiB -buffer=3MiB",
            "-memory is less than -buffer, so one session could not fill its buffer",
            "raise -memory or lower -buffer"),
        Refusal("-hold=24", "-hold cannot be \"24\", which is not a duration", durations),
        Refusal("-hold=1w", "-hold cannot be \"1w\", which is not a duration", durations),
        Refusal("-hold=", "-hold needs a value", "write it as -hold=7d"),
        Refusal("-hold=0s", "-hold=0s is out of range", "-hold takes 1s to 31d"),
        Refusal("-hold=32d", "-hold=32d is out of range", "-hold takes 1s to 31d"),
        Refusal("-drain=25h", "-drain=25h is out of range", "-drain takes 0s to 1d"),
        Refusal("-max-streams=0", "-max-streams=0 is out of range", "-max-streams takes 1 to 1000000"),
        Refusal(
            "-max-streams=many", "-max-streams cannot be \"many\", which is not a whole number",
            "-max-streams takes 1 to 1000000"),
        Refusal(
            "-max-sessions=100001", "-max-sessions=100001 is out of range", "-max-sessions takes 1 to 100000"),
        Refusal("-io=kqueue", "-io cannot be \"kqueue\"", "-io is auto, uring or epoll"),
        Refusal("-log-format=xml", "-log-format cannot be \"xml\"", "-log-format is text or json"),
        Refusal(
            "-log-level=loud", "-log-level cannot be \"loud\"",
            "-log-level is trace, debug, info, notice, warning, error or critical"),
    ]

    static let others = [
        Refusal(
            "-client -out=h:1 -max-sessions=2",
            "-max-sessions is a flag of the server; a client has one session",
            "leave it out, or use it with -server"),
        Refusal("demo -seconds=4", "-seconds=4 is out of range", "-seconds takes 5 to 3600"),
        Refusal(
            "demo -seconds=1m", "-seconds cannot be \"1m\", which is not a whole number",
            "-seconds takes 5 to 3600"),
        Refusal(
            "demo -faults=reset,flood", "-faults cannot contain \"flood\"",
            "-faults is none, or some of blackhole,reset,stall"),
        Refusal(
            "demo extra", "unexpected argument \"extra\"", "run \"tele demo -help\" for the list of flags"),
        Refusal("-server -in=\u{1b}[31m:1", "-in=?[31m:1 is not a host name or an address", addresses),
    ]

    @Test(arguments: unknown + roles + servers + proxies + unusable + others)
    func isOneSentenceOneHintAndStatus64(_ refusal: Refusal) throws {
        try check(refusal, words: refusal.words)
    }

    /// Values are wrong in the same words for both roles.
    @Test(arguments: values)
    func wrongValueIsNamed(_ refusal: Refusal) throws {
        try check(refusal, words: "-server -in=:22 \(refusal.words)")
    }

    private func check(_ refusal: Refusal, words: String) throws {
        let outcome = try Program.run(words.split(separator: " ").map(String.init))
        #expect(outcome.errors == "tele: error: \(refusal.sentence)\ntele: hint: \(refusal.hint)\n")
        #expect(outcome.output == "")
        #expect(outcome.status == 64)
        for text in [refusal.sentence, refusal.hint] {
            #expect(!text.hasSuffix(".") && text.first?.isUppercase == false)
        }
    }
}
