/// What `tele`, `tele -help` and `tele help demo` print. Plain ASCII and 79 columns, so that it reads
/// anywhere.
enum Help {
    static func topic(_ words: [String]) throws(UsageFault) -> String {
        switch words {
        case []: return screen
        case ["demo"]: return demo
        case ["keygen"]: return keygen
        case ["check"], ["config"]: return check
        default:
            throw UsageFault(
                "there is no help about \(quoted(words.joined(separator: " ")))",
                hint: "\"tele help\", and \"tele help\" with check, demo or keygen, are all there is")
        }
    }

    static let screen = #"""
        tele carries TCP connections over a network that fails: they pause and go on.

                              -in of the client
                                      |
            +-------------+           |  +-------------+
            | your client |--localhost-->| tele client |---+
            +-------------+              +-------------+   |
                                                           ~
          CLIENT-SIDE                                      |
          - - - - - - - - - - - - - - - - - - - - - UNRELIABLE NETWORK - - - - -
          SERVER-SIDE                                      |
                                                           ~
            +-------------+              +-------------+   |
            | your server |<--localhost--| tele server |<--+
            +-------------+ |            +-------------+ |
                            |                            |
                    -in of the server        -out of the server and of the client

        usage
          tele -server -in=:22 -out=:40300            on the server's machine
          tele -client -in=:22999 -out=host:40300     on the client's machine
          ssh -p 22999 localhost                      through both
          tele keygen -out=tele.key                   a key for -key on both sides
          tele -config=FILE                           many mappings; "tele help check"
          tele demo                                   all of it here, with faults

        addresses
          HOST:PORT, [IPV6]:PORT, unix:/PATH; :PORT listens on every interface and dials
          localhost. Without -in of the client (on localhost) or -out of the server (on
          every interface) a free port is taken and its address printed on stdout.

        flags, with one dash or two, as -name=value or -name value
          -client, -server         which of the two this process is
          -in=ADDRESS              client: where your clients connect
                                   server: where your server listens
          -out=ADDRESS             client: where the tele server is
                                   server: where tele clients connect
          -buffer=64MiB            bytes held per session and direction, 1MiB to 16GiB;
                                   when it is full, tele stops reading the sender
          -memory=1GiB             bytes held by all sessions, at least -buffer
          -hold=24h                how long a lost session is kept, 1s to 31d
          -drain=10s               how long streams may go on after SIGTERM, 0s to 1d
          -max-streams=100000      streams in one session, 1 to 1000000
          -max-sessions=1024       sessions on a server, 1 to 100000
          -key=FILE                encrypts, and lets in who has the key; on both sides
          -cert, -cert-key, -ca=FILE
                                   the same with certificates, PEM; on both sides
          -allow=NAME,NAME         with certificates: only these names
          -require-key             refuses to run without; TELE_REQUIRE_KEY=1 too
          -proxy-protocol          client: the origin gets the user's address (PROXY v2)
          -config=FILE             a file with all this; SIGHUP reads it again
          -io=auto                 auto, uring or epoll
          -log-format=text         text or json, on stderr
          -log-level=info          trace, debug, info, notice, warning, error, critical
          -version, -help

        exit status
          0 fine, 64 wrong command line, 69 address not available, 78 cannot work as
          configured on this machine, 1 anything else

        more
          tele help check, tele help demo, tele help keygen
          tele --generate-completion-script bash|zsh|fish
        """#

    static let check = """
        tele check reads a configuration file, and the keys that it names, as
        tele -config=FILE would, and says what is wrong with it and where.

        usage
          tele check -config=FILE
          tele check -config=FILE -client          when it has a [client] and a [server]

        a client's file, and a server's; under them any flag without its dash
          [client]                                 [server]
          out = "host9:40300"                      out = ":40300"
          key = "/etc/tele/key"                    key = "/etc/tele/keys"

          [client.listen]                          [server.origins]
          ssh = "127.0.0.1:22999"                  ssh = "localhost:22"
          db = "unix:/run/user/1000/db"            db = "unix:/run/postgresql/.s.PGSQL.5432"
          web = { address = ":8080", proxy-protocol = true }

        The two sides find each other by the name. SIGHUP applies a changed file:
        connections of a mapping that did not change, or was removed, go on.

        exit status
          0 it is fine, 78 it is not
        """

    static let keygen = """
        tele keygen makes a key. Both sides need it, in a file that only their user may
        read: -key=FILE. A server takes one line for each client; a client one line.

        usage
          tele keygen -out=tele.key
          tele keygen -name=notebook >> keys       with umask 077

        flags
          -out=FILE                where to write it, never over a file. Else stdout
          -name=tele               whose it is, for logs: letters, digits, . - _
          -help
        """

    static let demo = """
        tele demo shows tele carrying real data through faults, on this machine alone
        and without root: an origin, a tele server, a tele client, and between the two
        a network that goes silent, resets and stalls in turn. Every byte is compared.

        usage
          tele demo
          tele demo -seconds=60

        flags
          -seconds=20              about how long it takes, 5 to 3600
          -faults=blackhole,reset,stall
                                   what goes wrong, in turn; or none
          -io=auto                 how tele talks to the kernel: auto, uring or epoll
          -binary=PATH             another tele than this one
          -help

        faults
          blackhole                nothing passes, and what was connected stays dead
          reset                    every connection is reset
          stall                    nothing passes, then everything goes on, late

        exit status
          0 every byte arrived, once and in order; 1 not so, and how
        """
}
