/// Why a command ends: one sentence and one hint, both lower case without a final period, and its exit status.
struct CommandError: Error, Equatable {
    let sentence: String
    let hint: String
    let status: ExitStatus

    /// Without a status: the command line cannot be followed.
    init(_ sentence: String, hint: String, status: ExitStatus = .usage) {
        (self.sentence, self.hint, self.status) = (sentence, hint, status)
    }

    /// In a file. `sentence` begins with its path and, where there is one, the line.
    static func configuration(_ sentence: String, hint: String) -> CommandError {
        CommandError(sentence, hint: hint, status: .configuration)
    }

    /// What ssh could not do either.
    static func ssh(_ sentence: String, hint: String) -> CommandError { CommandError(sentence, hint: hint, status: .ssh) }

    /// Another process that this command asks.
    static func unavailable(_ sentence: String, hint: String) -> CommandError {
        CommandError(sentence, hint: hint, status: .unavailable)
    }
}
