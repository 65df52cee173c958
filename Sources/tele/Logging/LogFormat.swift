import Glibc
import Logging

/// How a log line looks.
enum LogFormat: String, CaseIterable {
    /// `2026-11-23T10:00:00.123Z info carrier up peer=1.2.3.4:40300 rtt=0.3ms`
    case text
    /// The same as one JSON object.
    case json

    /// A whole line with its newline. `forJournal` puts the priority in front, as systemd reads it, and
    /// leaves out the time of a text line, which the journal keeps itself.
    func line(
        _ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata, at time: timespec,
        forJournal: Bool
    ) -> String {
        var line = forJournal ? "<\(level.journalPriority)>" : ""
        let fields = metadata.sorted { $0.key < $1.key }
        switch self {
        case .text:
            if !forJournal { line += Timestamp.text(time) + " " }
            line += level.rawValue
            line += " "
            Escape.append(message, to: &line, Escape.unprintable)
            for (key, value) in fields {
                line += " "
                line += Escape.word(key)
                line += "="
                line += Escape.word(value.description)
            }
        case .json:
            line += "{\"time\":\"\(Timestamp.text(time))\",\"level\":\"\(level.rawValue)\",\"message\":"
            line += Escape.quotedJSON(message)
            for (key, value) in fields {
                // A field may not stand in the place of one of the three above.
                let name = ["time", "level", "message"].contains(key) ? key + "_" : key
                line += ",\(Escape.quotedJSON(name)):\(value.json)"
            }
            line += "}"
        }
        return line + "\n"
    }
}

extension Logger.Level {
    /// syslog.h: 2 critical … 7 debug.
    var journalPriority: Int {
        switch self {
        case .critical: 2
        case .error: 3
        case .warning: 4
        case .notice: 5
        case .info: 6
        case .debug, .trace: 7
        }
    }
}

extension Logger.MetadataValue {
    fileprivate var json: String {
        switch self {
        case .string(let text): return Escape.quotedJSON(text)
        case .stringConvertible(let value):
            switch value {
            case let number as any FixedWidthInteger: return "\(number)"
            case let number as Double where number.isFinite: return "\(number)"
            case let truth as Bool: return truth ? "true" : "false"
            default: return Escape.quotedJSON("\(value)")
            }
        case .array(let values): return "[" + values.map(\.json).joined(separator: ",") + "]"
        case .dictionary(let fields):
            let members = fields.sorted { $0.key < $1.key }.map {
                "\(Escape.quotedJSON($0.key)):\($0.value.json)"
            }
            return "{" + members.joined(separator: ",") + "}"
        }
    }
}
