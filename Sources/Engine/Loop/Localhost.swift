import Glibc

/// The name `localhost` where the system does not know it: an image from scratch has no /etc/hosts, and name servers are not to be asked for
/// it (RFC 6761 §6.3).
enum Localhost {
    /// The addresses of loopback, if `host` is this name and `/etc/hosts` says nothing of it. Nil: the system decides. May block for as long as a
    /// file takes. `hosts`, `interfaces`: the files that are read.
    static func addresses(of host: String, port: UInt16, hosts: String = "/etc/hosts", interfaces: String = "/proc/net/if_inet6") -> [Address]? {
        guard host.lowercased() == "localhost" || host.lowercased() == "localhost.", !lines(hosts).contains(where: names) else { return nil }
        // The family of IPv6 may be switched off.
        let hasSix = lines(interfaces).contains { $0.hasPrefix("00000000000000000000000000000001 ") }
        return (["127.0.0.1"] + (hasSix ? ["::1"] : [])).compactMap { Resolver.number(HostPort(host: $0, port: port)) }
    }

    private static func names(_ line: String) -> Bool {
        line.prefix { $0 != "#" }.split(whereSeparator: \.isWhitespace).dropFirst().contains { $0.lowercased() == "localhost" }
    }

    private static func lines(_ path: String) -> [String] {
        guard let file = fopen(path, "re") else { return [] }
        defer { fclose(file) }
        var (line, capacity, lines): (UnsafeMutablePointer<CChar>?, Int, [String]) = (nil, 0, [])
        defer { free(line) }
        while getline(&line, &capacity, file) > 0, let text = line { lines.append(String(cString: text)) }
        return lines
    }
}
