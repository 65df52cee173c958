import Foundation

/// Who imports whom, against what Package.swift declares.
struct Walls {
    let manifest: Manifest
    let files: [Repository.File]

    /// Modules of the system that any target may import, beside the exceptions below.
    static let system: Set<String> = ["Glibc", "Synchronization"]
    /// Bytes, frames and the protocol know neither sockets nor clocks, so they get no system at all.
    static let pure: Set<String> = ["Time", "Wire", "Tunnel"]
    static let forTests: Set<String> = ["Testing", "Foundation"]

    /// One sentence for each import or include that goes around a wall.
    func violations() -> [String] {
        files.flatMap { file -> [String] in
            guard let target = target(of: file) else {
                return isSource(file) ? ["\(file.path) belongs to no target"] : []
            }
            if file.path.hasSuffix(".swift") { return imports(file, target) }
            return [".c", ".cpp", ".h"].contains { file.path.hasSuffix($0) } ? includes(file, target) : []
        }
    }

    /// The target whose folder holds the file; the innermost one.
    func target(of file: Repository.File) -> Manifest.Target? {
        manifest.targets.filter { file.path.hasPrefix($0.path + "/") }.max { $0.path.count < $1.path.count }
    }

    private func isSource(_ file: Repository.File) -> Bool {
        file.path.hasPrefix("Sources/") && [".swift", ".c", ".h", ".cpp", ".m", ".S"].contains { file.path.hasSuffix($0) }
    }

    private func imports(_ file: Repository.File, _ target: Manifest.Target) -> [String] {
        var allowed = target.knows.union([target.name])
        if !Walls.pure.contains(target.name) { allowed.formUnion(Walls.system) }
        // The command reads JSON; the engine has no Foundation.
        if target.name == "tele" { allowed.insert("FoundationEssentials") }
        // What only tests use may import what tests import, and lies where tests lie.
        if target.path.hasPrefix("Tests/") { allowed.formUnion(Walls.forTests) }
        return importedModules(file.text).filter { !allowed.contains($0) }.map {
            "\(file.path) imports \($0), which \(target.name) does not declare"
        }
    }

    private func includes(_ file: Repository.File, _ target: Manifest.Target) -> [String] {
        let all = Set(files.map(\.path))
        let known = manifest.targets.filter { target.knows.contains($0.name) }.map { $0.path + "/include/" }
        let folder = file.path.split(separator: "/").dropLast().joined(separator: "/")
        return includedHeaders(file.text).compactMap { header, isQuoted in
            let isForeign = manifest.targets.contains { other in
                other != target && !known.contains(other.path + "/include/")
                    && all.contains(other.path + "/include/" + header)
            }
            let places =
                [folder + "/" + header, target.path + "/" + header, target.path + "/include/" + header]
                + known.map { $0 + header }
            if header.contains("..") || isForeign || (isQuoted && !places.contains(where: all.contains)) {
                return "\(file.path) includes \(header), which does not belong to \(target.name)"
            }
            return nil
        }
    }
}

/// The modules that Swift source imports: `import A`, `public import A`, `@testable import A`, `import struct A.B`.
func importedModules(_ text: String) -> [String] {
    let kinds: Set<Substring> = ["struct", "class", "enum", "protocol", "typealias", "func", "let", "var", "actor"]
    return withoutComments(text, emptyingStrings: true).split(whereSeparator: { $0.isNewline || $0 == ";" }).compactMap { line in
        let words = line.split(whereSeparator: \.isWhitespace)
        guard let keyword = words.firstIndex(of: "import"), words.count > keyword + 1,
            words[..<keyword].allSatisfy(isModifier)
        else { return nil }
        var name = words[keyword + 1]
        if kinds.contains(name), words.count > keyword + 2 { name = words[keyword + 2] }
        return String(name.prefix { $0 != "." })
    }
}

/// `@testable`, `@_spi(X)`, `public` … may stand before `import`.
private func isModifier(_ word: Substring) -> Bool {
    word.hasPrefix("@") || ["public", "package", "internal", "fileprivate", "private"].contains(word)
}

/// The headers that C source includes, and whether they are looked for beside it.
func includedHeaders(_ text: String) -> [(header: String, isQuoted: Bool)] {
    text.split(whereSeparator: \.isNewline).compactMap { line in
        let words = line.filter { !$0.isWhitespace }
        for (start, end, isQuoted) in [("#include\"", "\"", true), ("#include<", ">", false)] as [(String, Character, Bool)]
        where words.hasPrefix(start) {
            return (String(words.dropFirst(start.count).prefix { $0 != end }), isQuoted)
        }
        return nil
    }
}
