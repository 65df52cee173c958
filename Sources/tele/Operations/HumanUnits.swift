/// Numbers as a person reads them: three digits and a unit.
enum HumanUnits {
    /// 0 B, 12.3 KiB, 64.0 MiB.
    static func bytes(_ count: Double) -> String {
        var value = count
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 999.5 { return "\(digits(value, isWhole: unit == "B")) \(unit)" }
            value /= 1024
        }
        return "\(digits(value)) TiB"
    }

    /// 0.3 ms, 12 ms, 2.31 s, 12 min, 3 h 5 min, 2 d 4 h.
    static func seconds(_ value: Double) -> String {
        if value < 0.9995 { return "\(digits(value * 1000)) ms" }
        if value < 99.5 { return "\(digits(value)) s" }
        let minutes = Int((value / 60).rounded(.down))
        if minutes < 60 { return "\(minutes) min" }
        if minutes < 24 * 60 { return "\(minutes / 60) h \(minutes % 60) min" }
        return "\(minutes / 1440) d \(minutes / 60 % 24) h"
    }

    /// 0.1 %, 12.3 %. `part`: 0…1.
    static func percent(_ part: Double) -> String { part > 0 && part < 0.0005 ? "<0.1 %" : "\(digits(part * 100)) %" }

    private static func digits(_ value: Double, isWhole: Bool = false) -> String {
        if isWhole || value >= 99.95 { return "\(Int(value.rounded()))" }
        let tenths = value >= 9.995
        let scaled = Int((value * (tenths ? 10 : 100)).rounded())
        let base = tenths ? 10 : 100
        let rest = String(scaled % base)
        return "\(scaled / base)." + String(repeating: "0", count: (tenths ? 1 : 2) - rest.count) + rest
    }

    /// A bar for each value, of the height that it has among them.
    static func spark(_ values: [Double]) -> String {
        let bars = Array("▁▂▃▄▅▆▇█")
        let most = values.max() ?? 0
        return String(
            values.map { value in
                guard most > 0, value > 0 else { return bars[0] }
                return bars[min(7, Int(value / most * 7.999))]
            })
    }
}
