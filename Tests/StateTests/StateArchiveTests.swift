import Chance
import State
import Testing

/// What is saved is restored; what was changed since, or could never be saved, is refused.
struct StateArchiveTests {
    private struct Fields: Equatable {
        var small: UInt8 = 7
        var signed: Int32 = -5
        var large = UInt64.max
        var isSet = true
        var words = ["", "ä", "tele"]
        var perhaps: Int?

        mutating func archive(_ archive: inout StateArchive) throws(StateFault) {
            try archive.number(&small, in: 0...7)
            try archive.number(&signed)
            try archive.number(&large)
            try archive.flag(&isSet)
            try archive.list(&words, most: 3, blank: "") { (word, archive) throws(StateFault) in try archive.text(&word, most: 10) }
            try archive.optional(&perhaps, blank: 0) { (value, archive) throws(StateFault) in try archive.number(&value) }
            try archive.mark(42)
        }
    }

    private func saved(_ fields: Fields) throws -> [UInt8] {
        var archive = StateArchive()
        var fields = fields
        try fields.archive(&archive)
        archive.seal()
        return Array(archive.bytes)
    }

    private func restored(_ bytes: [UInt8]) -> Result<Fields, StateFault> {
        bytes.withUnsafeBytes { bytes in
            var archive = StateArchive(restoring: bytes), fields = Fields()
            do throws(StateFault) {
                try archive.checkSeal()
                try fields.archive(&archive)
                return archive.isAtEnd ? .success(fields) : .failure(StateFault("rest"))
            } catch {
                return .failure(error)
            }
        }
    }

    @Test func whatIsSavedIsRestored() throws {
        for perhaps in [nil, 3] {
            let fields = Fields(small: 1, signed: .min, large: 0, isSet: false, words: ["x"], perhaps: perhaps)
            #expect(try restored(saved(fields)) == .success(fields))
        }
    }

    @Test func whatIsOutOfRangeIsRefused() throws {
        #expect(try restored(saved(Fields(small: 8))) == .failure(StateFault("a number is out of its range")))
        #expect(try restored(saved(Fields(words: ["", "", "", ""]))) == .failure(StateFault("a number is out of its range")))
    }

    /// One bit, anywhere; or an end that comes early.
    @Test func whatWasChangedIsRefused() throws {
        let bytes = try saved(Fields())
        for place in bytes.indices {
            for bit in 0..<8 {
                var changed = bytes
                changed[place] ^= 1 << bit
                #expect(restored(changed) == .failure(StateFault("its sum is not that of its bytes")))
            }
            #expect(restored(Array(bytes[..<place])) == .failure(StateFault("its sum is not that of its bytes")))
        }
    }

    /// Somebody who knows how to seal.
    @Test(arguments: ChanceSetting.seeds(4)) func nonsenseDoesNoHarm(seed: UInt64) throws {
        var chance = Chance(seed: seed)
        for _ in 0..<10_000 {
            var archive = StateArchive()
            for _ in 0..<chance.below(20) {
                var word = chance.oneIn(2) ? UInt64(chance.below(9)) : chance.next()
                try archive.number(&word)
            }
            archive.seal()
            _ = restored(Array(archive.bytes))
        }
    }
}
