/// Keeps a log line one line, whatever a peer or a name server put into it.
enum Escape {
    /// Control characters, of which a newline would forge a line and an escape drive a terminal.
    static func unprintable(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value < 0x20 || (scalar.value >= 0x7f && scalar.value < 0xa0) || scalar.value == 0x2028
            || scalar.value == 0x2029
    }

    /// A key or a value: as it is when it reads as one word, else in quotes.
    static func word(_ text: String) -> String {
        let isWord =
            !text.isEmpty
            && text.unicodeScalars.allSatisfy {
                !unprintable($0) && !$0.properties.isWhitespace && $0 != "\"" && $0 != "=" && $0 != "\\"
            }
        return isWord ? text : quotedJSON(text)
    }

    /// RFC 8259 §7.
    static func quotedJSON(_ text: String) -> String {
        var result = "\""
        append(text, to: &result) { unprintable($0) || $0 == "\"" || $0 == "\\" }
        return result + "\""
    }

    static func append(_ text: String, to result: inout String, _ needsEscape: (Unicode.Scalar) -> Bool) {
        for scalar in text.unicodeScalars {
            guard needsEscape(scalar) else {
                result.unicodeScalars.append(scalar)
                continue
            }
            switch scalar {
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case "\r": result += "\\r"
            case "\"", "\\": result += "\\\(scalar)"
            default:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            }
        }
    }
}
