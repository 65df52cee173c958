import Glibc
import Loop
import Relay

/// `tele keygen`: a fresh key for -key, into a file that nobody else may read.
struct Keygen {
    private let output: String?
    private let name: String

    init(_ arguments: KeygenArguments) throws(CommandError) {
        output = arguments.output
        name = arguments.name ?? "tele"
        guard KeyFile.isName(name) else {
            throw CommandError(
                "-name cannot be \(quoted(name))",
                hint: "it is for logs: at most \(KeyFile.nameMaximum) letters, digits, dots, dashes and underlines")
        }
    }

    func run() throws -> ExitStatus {
        guard let line = KeyFile.line(name: name) else {
            ErrorMessage("cannot make a key (there is no randomness)", hint: "is /dev/urandom there?").print()
            return .failure
        }
        guard let output else { return try StandardStreams.print(String(line.dropLast())) }
        // Never over a file that is there: it may be the only copy of a key.
        let fd = open(output, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard fd >= 0 else {
            ErrorMessage(
                "cannot make \(quoted(output)) (\(SystemError.last))",
                hint: errno == EEXIST ? "a key that is there is not written over; take another name" : "check the folder"
            ).print()
            return .unavailable
        }
        let isWhole = line.utf8.withContiguousStorageIfAvailable { write(fd, $0.baseAddress, $0.count) == $0.count } ?? false
        guard isWhole, fsync(fd) == 0, close(fd) == 0 else {
            ErrorMessage("cannot write \(quoted(output)) (\(SystemError.last))", hint: "is the disk full?").print()
            unlink(output)
            return .failure
        }
        return .fine
    }

}
