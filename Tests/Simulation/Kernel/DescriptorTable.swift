import Glibc

/// The open files of a process, by their numbers. All its loops have them.
final class DescriptorTable {
    private var files: [VirtualFile?] = [nil, nil, nil]
    /// Each hears of every file that is ready, as a ring asks about those only that it waits for.
    private var loops: [Unowned] = []
    private let maximum: Int

    private struct Unowned { unowned let loop: VirtualProcess }

    init(maximum: Int) { self.maximum = maximum }

    func serve(_ loop: VirtualProcess) { loops.append(Unowned(loop: loop)) }

    /// Those that share it.
    var processes: [VirtualProcess] { loops.map(\.loop) }

    var count: Int { files.reduce(0) { $0 + ($1 == nil ? 0 : 1) } }

    var numbers: [Int32] { files.indices.filter { files[$0] != nil }.map { Int32($0) } }

    var sources: [EventSource] { files.compactMap { $0 as? EventSource } }

    /// The lowest free number, as in POSIX; or -EMFILE.
    func open(_ file: VirtualFile) -> Int32 {
        var number = files.indices.dropFirst(3).first { files[$0] == nil } ?? files.count
        if number >= maximum { return -EMFILE }
        if number == files.count { files.append(nil) }
        number = max(number, 3)
        files[number] = file
        file.holder = self
        file.descriptor = Int32(number)
        return Int32(number)
    }

    func file(_ descriptor: Int32) -> VirtualFile? {
        descriptor >= 0 && Int(descriptor) < files.count ? files[Int(descriptor)] : nil
    }

    /// False: it is not open.
    func close(_ descriptor: Int32) -> Bool {
        guard let file = file(descriptor) else { return false }
        files[Int(descriptor)] = nil
        for entry in loops { entry.loop.forgetReady(descriptor) }
        file.holder = nil
        file.close()
        return true
    }

    func noteReady(_ descriptor: Int32) { for entry in loops { entry.loop.noteReady(descriptor) } }
}
