/// What happened, step by step, for the reader of a seed that failed.
public enum Trace {
    nonisolated(unsafe) public static var isOn = false
}
