/// One flag as a person may write it. `Tele` and `DemoArguments` declare the same flags to ArgumentParser.
struct GoFlag: Equatable {
    enum Kind: Equatable {
        /// Takes `=true` and `=false` only, and is true when it stands alone.
        case toggle
        /// Takes a value, `-name=value` or `-name value`; `example` completes the hint when it is missing.
        case value(example: String)
    }

    let name: String
    let kind: Kind

    static func toggle(_ name: String) -> GoFlag { GoFlag(name: name, kind: .toggle) }
    static func value(_ name: String, _ example: String) -> GoFlag {
        GoFlag(name: name, kind: .value(example: example))
    }

    static let ofTele: [GoFlag] = [
        .toggle("client"), .toggle("server"),
        .value("in", ":22"), .value("out", "host:40300"),
        .value("io", "auto"), .value("splice", "auto"), .value("keeper", "never"), .value("threads", "4"), .value("buffer", "64MiB"), .value("memory", "1GiB"),
        .value("hold", "7d"),
        .value("failover", "10s"),
        .value("carriers", "4"), .value("paths", "wlan0,wwan0"),
        .value("max-streams", "100000"), .value("max-sessions", "1024"), .value("drain", "10s"), .value("idle-exit", "10m"),
        .value("log-format", "text"), .value("log-level", "info"),
        .value("key", "FILE"), .value("cert", "FILE"), .value("cert-key", "FILE"), .value("ca", "FILE"),
        .value("allow", "NAME,NAME"), .toggle("require-key"),
        .value("reverse", "localhost:8080"), .value("kind", "socks5"), .value("passwords", "FILE"), .value("destinations", "db.example.com:5432,10.2.0.0/16:*"),
        .value("refuse-after", "30s"),
        .value("proxy", "http://proxy:3128"), .value("proxy-auth", "FILE"),
        .value("config", "FILE"), .toggle("proxy-protocol"), .value("socket-mode", "0660"), .value("socket-group", "www-data"), .toggle("exit-on-failure"),
        .value("metrics", "localhost:9140"), .value("control", "/run/tele/a.sock"),
        .toggle("version"), .toggle("help"), .toggle("h"),
    ]

    /// `tele ssh`: its own; the others are ssh's.
    static let ofSsh: [GoFlag] = [.toggle("copy"), .value("port", "40300"), .toggle("help")]
    /// Of the commands that talk to a running process.
    static let ofStatus: [GoFlag] = [.value("control", "PATH"), .toggle("json"), .toggle("ready"), .toggle("help"), .toggle("h")]
    static let ofOrder: [GoFlag] = [.value("control", "PATH"), .toggle("help"), .toggle("h")]
    static let ofUpgrade: [GoFlag] = ofOrder + [.value("binary", "FILE")]
    static let ofDrain: [GoFlag] = ofOrder + [.toggle("now")]
    /// `tele connect`: those of a client that make sense for one connection.
    static let ofConnect: [GoFlag] = ofTele.filter {
        [
            "out", "failover", "paths", "io", "splice", "keeper", "buffer", "memory", "key", "cert", "cert-key", "ca", "require-key", "proxy", "proxy-auth",
            "log-format", "log-level", "config", "help", "h",
        ].contains($0.name)
    }

    static let ofCheck: [GoFlag] = [
        .value("config", "FILE"), .toggle("client"), .toggle("server"), .toggle("help"), .toggle("h"),
    ]

    static let ofHosts: [GoFlag] = [.value("config", "FILE"), .toggle("check"), .toggle("help"), .toggle("h")]

    static let ofKeygen: [GoFlag] = [.value("out", "FILE"), .value("name", "notebook"), .toggle("help"), .toggle("h")]

    static let ofDemo: [GoFlag] = [
        .value("seconds", "20"), .value("faults", "blackhole,reset,stall"), .value("io", "auto"),
        .value("binary", "/usr/bin/tele"), .toggle("help"), .toggle("h"),
    ]
}
