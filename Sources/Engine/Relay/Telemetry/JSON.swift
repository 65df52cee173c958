/// Writes a value as JSON, by its stored properties. For what this process says of itself: names are Swift's, in the order in
/// which they are declared.
enum JSON {
    static func text(_ value: Any) -> String {
        switch value {
        case let text as String: return quoted(text)
        case let flag as Bool: return flag ? "true" : "false"
        case let number as Double: return number.isFinite ? "\(number)" : "null"
        case let number as any FixedWidthInteger: return "\(number)"
        case let choice as any RawRepresentable<String>: return quoted(choice.rawValue)
        case let list as [Any]: return "[" + list.map(text).joined(separator: ",") + "]"
        default:
            let mirror = Mirror(reflecting: value)
            if mirror.displayStyle == .optional { return mirror.children.first.map { text($0.value) } ?? "null" }
            let members = mirror.children.map { "\(quoted($0.label ?? "")):\(text($0.value))" }
            return "{" + members.joined(separator: ",") + "}"
        }
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case let scalar where scalar.value < 0x20: result += "\\u00" + (scalar.value < 0x10 ? "0" : "") + String(scalar.value, radix: 16)
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

extension Status {
    var json: String { JSON.text(self) }
}
