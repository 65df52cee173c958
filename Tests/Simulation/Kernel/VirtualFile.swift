import Glibc

/// What a descriptor leads to.
class VirtualFile {
    unowned let kernel: VirtualKernel
    /// The process that has it open, and by which number.
    weak var holder: DescriptorTable?
    var descriptor: Int32 = -1

    init(_ kernel: VirtualKernel) { self.kernel = kernel }

    /// Bits of poll(2), also those that nobody asked for.
    var readiness: Int32 { 0 }
    /// The last descriptor is closed.
    func close() {}

    /// Something may be possible now that was not before.
    func changed() { holder?.noteReady(descriptor) }
}

/// Signals, file events, news of the network: readable while something has happened that was not taken.
final class EventSource: VirtualFile {
    enum Kind { case signals, waking, files, network }
    let kind: Kind
    var pending: [UInt32] = []

    init(_ kernel: VirtualKernel, _ kind: Kind) {
        self.kind = kind
        super.init(kernel)
    }

    override var readiness: Int32 { pending.isEmpty ? 0 : POLLIN }

    func post(_ word: UInt32) {
        pending.append(word)
        changed()
    }
}

/// A socket that only asks for routes: connected, it sends nothing.
final class DatagramSocket: VirtualFile {
    var remote: VirtualKernel.Name?
    /// The machine's second interface, if it is bound to that.
    var host: Int?
}

/// Swallows what is spliced into it.
final class VirtualSink: VirtualFile {}

/// One end of a pipe.
final class PipeEnd: VirtualFile {
    let pipe: VirtualPipe
    let isOutput: Bool

    init(_ kernel: VirtualKernel, _ pipe: VirtualPipe, isOutput: Bool) {
        self.pipe = pipe
        self.isOutput = isOutput
        super.init(kernel)
    }

    override var readiness: Int32 { isOutput ? (pipe.bytes.isEmpty ? 0 : POLLIN) : (pipe.room > 0 ? POLLOUT : 0) }
    override func close() { pipe.closedEnds += 1 }
}

/// A pipe: bytes in order, in slots of a page each, as in the kernel.
final class VirtualPipe {
    static let pageByteCount = 4096
    let slots: Int
    var bytes = ByteQueue()
    var closedEnds = 0

    init(byteCount: Int) { slots = max(1, (byteCount + VirtualPipe.pageByteCount - 1) / VirtualPipe.pageByteCount) }

    /// Bytes that fit into slots of their own.
    var room: Int { max(0, slots - bytes.pieceCount) * VirtualPipe.pageByteCount }

    /// Puts in what has room, a page a slot; how much.
    func put(_ pieces: [ArraySlice<UInt8>]) -> Int {
        var done = 0
        for piece in pieces {
            var rest = piece
            while !rest.isEmpty, bytes.pieceCount < slots {
                let page = rest.prefix(VirtualPipe.pageByteCount)
                bytes.append(page)
                rest = rest.dropFirst(page.count)
                done += page.count
            }
            if !rest.isEmpty { break }
        }
        return done
    }
}
