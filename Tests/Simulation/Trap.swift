import Glibc

/// The seed of the run under way, for the trap handler: a trap has no report.
nonisolated(unsafe) public var nowRunning: UInt64 = 0 {
    didSet { if oldValue == 0 { installTrapHandler() } }
}

/// A trap prints its seed before the process dies of it.
private func installTrapHandler() {
    for number in [SIGILL, SIGTRAP, SIGSEGV, SIGABRT] {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { number in
            var digits: (UInt64, UInt64, UInt64) = (0, 0, 0)
            withUnsafeMutableBytes(of: &digits) { buffer in
                var index = buffer.count, rest = nowRunning
                index -= 1
                buffer[index] = 0x0a
                repeat {
                    index -= 1
                    buffer[index] = UInt8(0x30 + rest % 10)
                    rest /= 10
                } while rest > 0
                let words: StaticString = "simulation: trapped in seed "
                _ = write(2, words.utf8Start, words.utf8CodeUnitCount)
                _ = write(2, buffer.baseAddress! + index, buffer.count - index)
            }
            signal(number, SIG_DFL)
            raise(number)
        }
        sigaction(number, &action, nil)
    }
}
