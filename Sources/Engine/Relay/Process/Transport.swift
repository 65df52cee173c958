/// What lies between a carrier's socket and its bytes. Plain: nothing; the kernel reads and writes the session's bytes
/// where they lie. Secure: TLS, with records in memory of its own.
enum Transport {
    case plain
    case secure(SecureChannel)

    var channel: SecureChannel? {
        switch self {
        case .plain: nil
        case .secure(let channel): channel
        }
    }
}
