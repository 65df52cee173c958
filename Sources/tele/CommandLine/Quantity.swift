/// Sizes and durations as a person writes them. Nil for anything else, also for what does not fit.
enum Quantity {
    /// `65536`, `64MiB`, `1GB`: bytes. Units are read in any case.
    static func byteCount(_ text: String) -> Int? {
        guard let (number, unit) = split(text[...]), unit.endIndex == text.endIndex else { return nil }
        let factors = [
            "": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
            "kb": 1000, "mb": 1_000_000, "gb": 1_000_000_000, "tb": 1_000_000_000_000,
        ]
        guard let factor = factors[unit.lowercased()] else { return nil }
        return product(number, factor)
    }

    /// `500ms`, `10s`, `5m`, `24h`, `7d`, and one after another as in Go, `1h30m`: milliseconds.
    static func milliseconds(_ text: String) -> Int? {
        let factors = ["ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000]
        if text == "0" { return 0 }
        guard !text.isEmpty else { return nil }
        var total = 0
        var rest = text[...]
        while !rest.isEmpty {
            guard let (number, unit) = split(rest), let factor = factors[String(unit)],
                let part = product(number, factor)
            else { return nil }
            let sum = total.addingReportingOverflow(part)
            guard !sum.overflow else { return nil }
            total = sum.partialValue
            rest = rest[unit.endIndex...]
        }
        return total
    }

    static func count(_ text: String) -> Int? {
        guard let (number, unit) = split(text[...]), unit.isEmpty, unit.endIndex == text.endIndex else {
            return nil
        }
        return number
    }

    /// Leading digits and the letters after them.
    private static func split(_ text: Substring) -> (number: Int, unit: Substring)? {
        let digits = text.prefix { $0.isASCII && $0.isWholeNumber }
        guard let number = Int(digits) else { return nil }
        return (number, text[digits.endIndex...].prefix { $0.isLetter })
    }

    private static func product(_ number: Int, _ factor: Int) -> Int? {
        let (value, overflow) = number.multipliedReportingOverflow(by: factor)
        return overflow ? nil : value
    }
}
