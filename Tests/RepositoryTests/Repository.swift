import Foundation

/// The files of this repository, as text.
struct Repository {
    struct File {
        /// From the root, with slashes.
        let path: String
        let text: String
        var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }
    }

    let files: [File]

    /// Reads the working copy that this test was compiled from. Hidden folders (build products, version control), what
    /// Python leaves behind and what the package manager writes are not part of it.
    init() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let manager = FileManager.default
        var found: [File] = []
        var folders = [""]
        while let folder = folders.popLast() {
            for name in try manager.contentsOfDirectory(atPath: root.appending(path: folder).path) {
                let path = folder.isEmpty ? name : "\(folder)/\(name)"
                if (name.hasPrefix(".") && name != ".ci") || name == "__pycache__" || name == "Package.resolved" { continue }
                var isFolder: ObjCBool = false
                guard manager.fileExists(atPath: root.appending(path: path).path, isDirectory: &isFolder) else { continue }
                if isFolder.boolValue {
                    folders.append(path)
                } else if let text = try? String(contentsOf: root.appending(path: path), encoding: .utf8) {
                    found.append(File(path: path, text: text))  // What is not UTF-8 is no text.
                }
            }
        }
        files = found.sorted { $0.path < $1.path }
    }

    func file(_ path: String) -> File? { files.first { $0.path == path } }
}
