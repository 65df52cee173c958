import Foundation

/// The targets of Package.swift, read as text: what each is called, where it lies, and what it knows.
struct Manifest {
    struct Target: Equatable {
        let name: String
        let path: String
        /// Targets and products that it may import.
        let knows: Set<String>
        let isTest: Bool
    }

    enum Unreadable: Error, Equatable { case noTargets, element(String), argument(String) }

    let targets: [Target]

    /// Throws rather than guess: a form of declaration that is not known here needs a line here.
    init(_ text: String) throws {
        let code = withoutComments(text)
        guard let start = code.range(of: "    targets: [")?.upperBound,
            let list = balanced(code[start...], closing: "]")
        else { throw Unreadable.noTargets }
        targets = try splitOutside(list).map(Manifest.target)
    }

    private static func target(_ element: Substring) throws -> Target {
        guard let open = element.firstIndex(of: "("),
            let inside = balanced(element[element.index(after: open)...], closing: ")")
        else {
            throw Unreadable.element(String(element))
        }
        let kind = String(element[..<open])
        guard ["layer", "cLayer", "tests", ".target", ".executableTarget", ".testTarget"].contains(kind) else {
            throw Unreadable.element(String(element))
        }
        var name: String?
        var path: String?
        var knows: Set<String> = []
        for argument in splitOutside(inside) {
            let (label, value) = labelled(argument)
            switch label {
            case "", "name": name = try quoted(value)
            case "at", "path": path = try quoted(value)
            case "knows", "uses", "dependencies", "of": knows.formUnion(try names(value))
            default: break  // Settings: they change how a target is built, not what it knows.
            }
        }
        guard let name else { throw Unreadable.element(String(element)) }
        let isTest = kind == "tests" || kind == ".testTarget"
        let usual = isTest ? "Tests/\(name)" : "Sources/\(name)"
        return Target(name: name, path: path ?? usual, knows: knows, isTest: isTest)
    }

    /// `["Wire", .product(name: "Logging", package: "swift-log")]` → Wire, Logging.
    private static func names(_ list: Substring) throws -> [String] {
        guard list.first == "[", let inside = balanced(list.dropFirst(), closing: "]") else {
            throw Unreadable.argument(String(list))
        }
        return try splitOutside(inside).map { item in
            if item.first == "\"" { return try quoted(item) }
            guard let open = item.firstIndex(of: "("),
                let arguments = balanced(item[item.index(after: open)...], closing: ")"),
                let named = splitOutside(arguments).map(labelled).first(where: { $0.label == "name" })
            else {
                throw Unreadable.argument(String(item))
            }
            return try quoted(named.value)
        }
    }

    private static func quoted(_ text: Substring) throws -> String {
        guard text.count >= 2, text.first == "\"", text.last == "\"" else { throw Unreadable.argument(String(text)) }
        return String(text.dropFirst().dropLast())
    }
}

/// `at: "x"` → at, "x". Without a label: an empty one.
private func labelled(_ argument: Substring) -> (label: Substring, value: Substring) {
    guard argument.first?.isLetter == true, let colon = argument.firstIndex(of: ":") else { return ("", argument) }
    return (argument[..<colon], trimmed(argument[argument.index(after: colon)...]))
}

/// What stands before the bracket that closes the one before `text`; nil when none does.
private func balanced(_ text: Substring, closing: Character) -> Substring? {
    var depth = 0
    var isQuoted = false
    for index in text.indices {
        let character = text[index]
        if character == "\"" { isQuoted.toggle() }
        if isQuoted { continue }
        if depth == 0 && character == closing { return text[..<index] }
        if "([{".contains(character) { depth += 1 }
        if ")]}".contains(character) { depth -= 1 }
    }
    return nil
}

/// The parts between commas that stand in no bracket and no string.
private func splitOutside(_ text: Substring) -> [Substring] {
    var parts: [Substring] = []
    var start = text.startIndex
    var depth = 0
    var isQuoted = false
    for index in text.indices {
        let character = text[index]
        if character == "\"" { isQuoted.toggle() }
        if isQuoted { continue }
        if "([{".contains(character) { depth += 1 }
        if ")]}".contains(character) { depth -= 1 }
        if character == "," && depth == 0 {
            parts.append(text[start..<index])
            start = text.index(after: index)
        }
    }
    parts.append(text[start...])
    return parts.map(trimmed).filter { !$0.isEmpty }
}

private func trimmed(_ text: Substring) -> Substring {
    var result = text
    while result.first?.isWhitespace == true { result.removeFirst() }
    while result.last?.isWhitespace == true { result.removeLast() }
    return result
}

/// Without `//` to the end of a line and `/* … */`; what strings hold is kept, or left out. Lines stay lines.
func withoutComments(_ text: String, emptyingStrings: Bool = false) -> String {
    var result = ""
    var rest = Substring(text)
    var isQuoted = false
    func keep(_ characters: Substring) { if !(isQuoted && emptyingStrings) { result += characters } }
    while let character = rest.first {
        if isQuoted {
            if character == "\\" {
                keep(rest.prefix(2))
                rest = rest.dropFirst(2)
                continue
            }
            if character == "\"" || character == "\n" { isQuoted = false }
        } else if rest.hasPrefix("//") {
            rest = rest.drop { $0 != "\n" }
            continue
        } else if rest.hasPrefix("/*") {
            let end = rest.range(of: "*/")?.upperBound ?? rest.endIndex
            result.append(String(repeating: "\n", count: rest[..<end].count { $0 == "\n" }))
            rest = rest[end...]
            continue
        } else if character == "\"" {
            result.append(rest.removeFirst())
            isQuoted = true
            continue
        }
        keep(rest.prefix(1))
        rest.removeFirst()
    }
    return result
}
