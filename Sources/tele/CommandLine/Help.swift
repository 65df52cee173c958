/// What `tele`, `tele -help` and `tele help demo` print. Plain ASCII and 79 columns, so that it reads
/// anywhere.
enum Help {
    static func topic(_ words: [String]) throws(CommandError) -> String {
        switch words {
        case []: return screen
        case ["demo"]: return demo
        case ["hosts"]: return hosts
        case ["keygen"], ["keys"]: return keygen
        case ["metrics"]: return metrics
        case ["check"], ["config"]: return check
        case ["connect"]: return connect
        case ["ssh"]: return ssh
        case ["status"]: return status
        case ["top"]: return top
        case ["drain"]: return drain
        case ["reconnect"]: return reconnect
        case ["restart"]: return restart
        case ["upgrade"]: return upgrade
        default:
            throw CommandError(
                "there is no help about \(quoted(words.joined(separator: " ")))",
                hint: "\"tele help\", and \"tele help\" with the name of a command, are all there is")
        }
    }

    static let screen = #"""
        tele keeps TCP connections alive through network outages.

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
          tele connect -out=host:40300 [NAME]         one connection, for ProxyCommand
          tele ssh host                               ssh that survives outages
          tele status                                 running processes, their backlog
          tele demo                                   a demonstration on this machine

        addresses
          HOST:PORT, [IPV6]:PORT, unix:/PATH; :PORT listens on every interface, and
          dials localhost. Without -in of the client (on localhost) or -out of the
          server (on every interface) a free port is taken and its address printed on
          stdout.

        flags, with one dash or two, as -name=value or -name value
          -client, -server         which side this process is
          -in=ADDRESS              client: listens here; your clients connect to it
                                   server: dials there; your server listens on it
          -out=ADDRESS             client: dials there; the tele server listens on it;
                                   A,B,...: several servers, the preferred one first
                                   server: listens here; tele clients connect to it
          -reverse=ADDRESS         the other way: server: your users connect to it;
                                   client: dials there, to your service
          -buffer=64MiB            bytes held per session and direction, 1MiB to 16GiB;
                                   when it is full, tele stops reading the sender
          -memory=1GiB             bytes held by all sessions, at least -buffer; less
                                   where the machine or container has less than 2GiB
          -hold=7d                 server: how long a lost session is kept, 1s to 31d
          -failover=10s            client: how long new connections wait for a server
                                   before they go to the next one, 0s to 1d
          -carriers=auto           client: sessions for its users, 1 to 8; auto: one,
                                   with more connections where packets are lost
          -paths=all               client: interfaces to the server, one carries and
                                   another stands by: all, usual, or eth0,wlan0
          -threads=1               event loops, 1 to 64; auto: one for each core, at
                                   most 8. Each has sessions of its own
          -drain=10s               how long streams may last after SIGTERM, 0s to 1d
          -idle-exit=TIME          server: exits after this time without a session
          -max-streams=100000      streams in one session, 1 to 1000000
          -max-sessions=1024       sessions on a server, 1 to 100000
          -key=FILE                encrypts and authenticates; on both sides
          -cert, -cert-key, -ca=FILE
                                   the same with certificates, PEM; on both sides
          -allow=NAME,NAME         with certificates: admit only these names
          -require-key             refuse to run without either; TELE_REQUIRE_KEY=1 too
          -kind=KIND               client: who chooses where users of -in go: fixed
                                   (nobody), socks5, http-connect or transparent
          -passwords=FILE          client: programs must give a USER:PASSWORD of it
          -destinations=LIST       server: where they may go then, HOST:PORT with *
                                   and networks; nowhere unless given
          -refuse-after=TIME       refuse new connections when there has been no
                                   carrier for this long; otherwise they wait
          -proxy=URL               client: reach the server through a proxy,
                                   http://[USER@]HOST:PORT or socks5://...
          -proxy-auth=FILE         client: a line USER:PASSWORD for the proxy
          -proxy-protocol          tell the origin the user's address (PROXY header)
          -exit-on-failure         client: exit if it cannot reach the server at
                                   startup: 77 if it is rejected, otherwise 69
          -config=FILE             settings and mappings; SIGHUP reloads it
          -metrics=ADDRESS         for Prometheus: /metrics and /healthz by HTTP
          -control=PATH            the socket for tele status and others; or none
          -socket-mode=0660        mode and group of listeners at unix:/PATH, which
          -socket-group=NAME       say who can connect
          -io=auto                 auto, uring or epoll
          -splice=auto             zero-copy relay: auto, always, never
          -keeper=never            always: connections outlive a crash of tele
          -log-format=text         text or json, on stderr
          -log-level=info          trace, debug, info, notice, warning, error, critical
          -version, -help

        exit status
          0 success, 64 usage error, 69 address or server not available, 77 rejected
          by the server, 78 configuration error, 1 any other error

        more
          tele help check|connect|demo|drain|hosts|keygen|reconnect|restart|ssh|status
          tele help top|upgrade|keys|config|metrics
          tele --generate-completion-script bash|zsh|fish
        """#

    static let hosts = """
        tele hosts prints the lines of /etc/hosts by which programs on this host reach
        the members of a cluster by their own names, through the tele client of a
        configuration file.

        usage
          tele hosts -config=FILE                    prints the lines
          tele hosts -config=FILE -check             says which names lead elsewhere

        the file
          [client.listen]
          kafka = { names = ["kafka-1.corp:9092", "kafka-2.corp:9092"] }

        Each name gets an address of its own, 127.77.0.1 and so on, in the order of
        the list; loopback = "127.78.0.1" in the table begins elsewhere. The server
        must allow the names: destinations = ["kafka-*.corp:9092"].

        exit status
          0 fine, 1 a name leads elsewhere, 78 configuration error
        """

    static let check = """
        tele check reads a configuration file, and the keys that it names, as
        tele -config=FILE would, and says what is wrong with it and where.

        usage
          tele check -config=FILE
          tele check -config=FILE -client        when it has a [client] and a [server]

        a client's file, and a server's; under them any flag without its dash
          [client]                             [server]
          out = "host9:40300"                  out = ":40300"
          key = "/etc/tele/key"                key = "/etc/tele/keys"

          [client.listen]                      [server.origins]
          ssh = "127.0.0.1:22999"              ssh = "localhost:22"
          db = "unix:/run/tele/a/db"           db = "unix:/run/db/socket"
          web = { address = ":8080", proxy-protocol = true }
          app = { address = "unix:/run/tele/app", mode = "0660", group = "www-data" }

        The two sides find each other by the name. SIGHUP applies a changed file:
        connections of an unchanged or removed mapping continue.

        exit status
          0 it is fine, 78 it is not
        """

    static let connect = """
        tele connect carries one connection over stdin and stdout, through outages. It
        needs no tele client: it is one, and ends with its connection.

        usage
          tele connect -out=host:40300 [-key=FILE] [NAME]
          tele connect -config=FILE NAME
          ssh -o ProxyCommand='tele connect -out=%h:40300 ssh' host9

        NAME is a mapping of the server; without it, its -in. Flags are those of a
        client; -log-level is warning unless told.

        exit status
          0 it ended in order, 1 it was lost, and else those of tele
        """

    static let ssh = """
        tele ssh does what ssh does with the same words, through a tele server, which
        it starts on the host, over ssh and as you, when none of yours runs there.
        Close the lid, change the network: the shell is still there. The server ends a
        minute after its last session.

        usage
          tele ssh [ssh's options] HOST [COMMAND]
          tele ssh -copy HOST                copies this program to ~/.local/bin first
          tele ssh -port=40300 HOST          where a firewall leaves one port open
          GIT_SSH_COMMAND="tele ssh" git pull
          scp -S tele-ssh FILE HOST:         tele-ssh: a link to tele, for what takes
                                             one word (scp, sftp, sshfs)

        A key for that host is made once, stays in ~/.cache/tele, and is handed over
        inside ssh. The host's port must be reachable, not only by a jump host. ssh's
        masters (ControlMaster) work, at paths of their own; ServerAliveInterval and
        ConnectTimeout do not count, for an outage ends no session.
        """

    static let status = """
        tele status shows what the running tele processes of this user do: sessions,
        carriers, what waits and for how long, and the last outages.

        usage
          tele status
          tele status -control=PATH                   one process
          tele status -json                           one line of JSON each
          tele status -ready                          for probes: exit status 69, and
                                                      the reason, while a new
                                                      connection would wait

        A process has its socket in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/tele,
        /run/user/UID/tele or, for root, /run/tele, else in /tmp/tele-UID, unless its
        -control says otherwise. It answers its user only.
        """

    static let metrics = """
        -metrics=ADDRESS serves HTTP for Prometheus and for probes.

          /metrics                 of the process, and of each mapping and client
          /healthz                 200 while the event loop runs
          /readyz                  503, and the reason, while a new connection would
                                   wait: no carrier, draining, stopping

        usage
          tele -client -in=:22999 -out=host:40300 -metrics=localhost:9140
          curl http://localhost:9140/metrics
        """

    static let top = """
        tele top shows one tele process, every second: throughput, backlog, and the
        time that the backlog needs. q quits. Into a pipe it writes a line a second.

        usage
          tele top
          tele top -control=PATH
        """

    static let drain = """
        tele drain ends a process when its open connections have ended, or after its
        -drain, as SIGTERM does, and says which process it is. Repeating it changes
        nothing.

        usage
          tele drain
          tele drain -control=PATH
          tele drain -now                             resets open connections, at once
        """

    static let reconnect = """
        tele reconnect makes a client dial a new carrier now. The old one is closed
        when the new one works. (SIGUSR1 does so only if the old one is silent.)

        usage
          tele reconnect
          tele reconnect -control=PATH
        """

    static let upgrade = """
        tele upgrade replaces the program of a running process and keeps its
        connections: same process, same listeners, a pause of some hundredths of a
        second. SIGUSR2 does the same. The new program is asked first whether it can
        continue; otherwise the running one does, and the reason is printed.

        usage
          tele upgrade                                the file that it was started from
          tele upgrade -binary=FILE
          tele upgrade -control=PATH                  one process
        """

    static let restart = """
        tele restart is tele upgrade with the same program: it keeps all connections,
        and applies changes of the -config file that a reload (SIGHUP) ignores, as
        -out, -buffer, -memory, -io and -splice. A session belongs to its server and
        to the client's key: if these change, its connections are reset.

        usage
          tele restart
          tele restart -control=PATH
        """

    static let keygen = """
        tele keygen makes a key. Both sides need it, in a file that only their user may
        read: -key=FILE. A server takes one line for each client; a client one line.

        usage
          tele keygen -out=tele.key
          tele keygen -name=notebook >> keys       with umask 077

        flags
          -out=FILE                the file, which must not exist; otherwise stdout
          -name=tele               the owner, for logs: letters, digits, . - _
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
