/// What the network between tele client and tele server does wrong, and when.
struct Fault: Equatable, Sendable {
    enum Kind: String, CaseIterable, Sendable {
        /// Nothing passes, nothing is answered, and connections from before never carry a byte again, as
        /// behind a gateway that forgot them.
        case blackhole
        /// Both ends of every connection are reset, as by a firewall. New ones work at once.
        case reset
        /// Nothing passes for a while; then everything goes on where it stopped, late.
        case stall
    }

    let kind: Kind
    /// Seconds since the demo began to send.
    let start: Double
    let length: Double
    var end: Double { start + length }

    var name: String { kind == .reset ? "reset" : "\(kind) \(tenths(length)) s" }

    /// The kinds in turn, with time to recover after each, as many as fit. Short demos have short faults.
    static func schedule(_ kinds: [Kind], sendingFor seconds: Double) -> [Fault] {
        guard !kinds.isEmpty else { return [] }
        let scale = min(1, seconds / 10)
        let quiet = 1.5 * scale
        var faults: [Fault] = []
        var time = quiet
        while true {
            let kind = kinds[faults.count % kinds.count]
            let length =
                switch kind {
                case .blackhole: 2.5 * scale
                case .reset: 0.0
                case .stall: 1.5 * scale
                }
            guard time + length + quiet <= seconds + 0.001 else { return faults }
            faults.append(Fault(kind: kind, start: time, length: length))
            time += length + quiet
        }
    }
}

/// A number with one digit after the point.
func tenths(_ number: Double) -> String { decimal(number, digits: 1) }

func decimal(_ number: Double, digits: Int) -> String {
    var power = 1
    for _ in 0..<digits { power *= 10 }
    let scaled = Int((max(0, number) * Double(power)).rounded())
    let rest = String(scaled % power)
    return "\(scaled / power)." + String(repeating: "0", count: digits - rest.count) + rest
}
