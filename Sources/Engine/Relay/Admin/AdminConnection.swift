import Loop

/// One admin connection: one request, one answer, then it is closed.
final class AdminConnection {
    let fd: Int32
    let index: UInt32
    let generation: UInt32
    let isPrivileged: Bool
    let request = UnsafeMutableRawBufferPointer.allocate(byteCount: Policy.adminRequestByteCount, alignment: 8)
    var filled = 0
    /// Of these, bytes in which the end of the head was looked for.
    private var searched = 0
    /// While it is sent.
    var answer: UnsafeMutableRawBufferPointer?
    var sent = 0
    /// Run when the answer was sent.
    var afterReply: ((RelayProcess) -> Void)?
    /// The ring holds a receive or a send, never both.
    var isInFlight = false
    var isClosing = false

    init(fd: Int32, index: UInt32, generation: UInt32, isPrivileged: Bool) {
        self.fd = fd
        self.index = index
        self.generation = generation
        self.isPrivileged = isPrivileged
    }

    deinit {
        request.deallocate()
        answer?.deallocate()
    }

    func token(_ operation: Operation) -> Token { operation.token(index, generation) }

    /// Method and path, when the request's head is whole. Each byte is looked at once, however slowly they come.
    func line() -> (method: String, path: String)? {
        let bytes = UnsafeRawBufferPointer(rebasing: request[..<filled])
        let from = max(0, searched - 3)
        searched = filled
        guard bytes.indices[from...].contains(where: { bytes[$0...].starts(with: [0x0d, 0x0a, 0x0d, 0x0a]) }) else { return nil }
        let first = String(decoding: bytes.prefix { $0 != 0x0d }, as: UTF8.self)
        let words = first.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
        return words.count == 3 ? (String(words[0]), String(words[1].prefix { $0 != "?" })) : ("", "")
    }
}
