import Chance
import Glibc

/// The seed of one test: TELE_SEED, or a fresh one. It is printed before anything can trap, and alone replays the test.
func drawnSeed(for test: String = #function) -> UInt64 {
    let seed = ChanceSetting.oneSeed()
    let line = "\(test): TELE_SEED=\(seed) TELE_FUZZ_COUNT=\(ChanceSetting.cases)\n"
    _ = line.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    return seed
}
