import CTOML

/// One value of a TOML document, with the keys that lead to it.
struct TOMLEntry {
    let keys: [String]
    let line: Int
    let kind: toml_kind
    let isElement: Bool
    let string: String
    let integer: Int64

    private init(_ entry: toml_entry) {
        keys = withUnsafeBytes(of: entry.keys) { keys in
            keys.bindMemory(to: UnsafePointer<CChar>.self).prefix(Int(entry.depth)).map { String(cString: $0) }
        }
        line = Int(entry.line)
        kind = entry.kind
        isElement = entry.is_element
        string = entry.string.map { String(cString: $0) } ?? ""
        integer = entry.integer
    }

    func fault(_ path: String, _ sentence: String, hint: String) -> CommandError {
        CommandError.configuration("\(path):\(line): \(sentence)", hint: hint)
    }

    /// All values of the document, in the order of their lines.
    static func read(_ text: [UInt8], _ path: String) throws(CommandError) -> [TOMLEntry] {
        var why = [CChar](repeating: 0, count: 256)
        var line: UInt32 = 0
        let document = text.withUnsafeBytes {
            toml_read($0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count, &why, why.count, &line)
        }
        guard let document else {
            let words = String(decoding: why.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            throw CommandError.configuration(
                "\(path):\(line): this is no TOML (\(visible(words, limit: 200)))",
                hint: "see toml.io; strings stand in double quotes")
        }
        defer { toml_close(document) }
        return (0..<toml_count(document)).map { TOMLEntry(toml_at(document, $0)) }
    }
}
