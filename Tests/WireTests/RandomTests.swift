import Chance
import Testing
import Wire

/// Bytes and frames by chance. TELE_SEED replays a run, TELE_FUZZ_COUNT extends it.
struct RandomTests {
    let brink = Brink()

    @Test func randomFramesComeBack() {
        let seed = drawnSeed()
        var chance = Chance(seed: seed)
        for number in 0..<ChanceSetting.cases {
            let original = randomFrame(&chance)
            guard let bytes = encoded(original) else { continue }
            let outcome = Outcome.value(original, byteCount: bytes.count)
            if brink.frame(bytes) != outcome || brink.frame(bytes + chance.bytes(chance.below(20))) != outcome {
                Issue.record("seed \(seed), case \(number): \(original) was read as \(brink.frame(bytes))")
            }
            if let problem = examine(bytes) { Issue.record("seed \(seed), case \(number): \(problem)") }
        }
    }

    @Test func randomHellosComeBack() {
        let seed = drawnSeed()
        var chance = Chance(seed: seed)
        for number in 0..<(ChanceSetting.cases / 4) {
            let original = randomHello(&chance)
            let bytes = encoded(original)
            let isRead = brink.hello(bytes) == .value(original, byteCount: bytes.count)
            if !isRead { Issue.record("seed \(seed), case \(number): \(original)") }
        }
    }

    @Test func framesInARunAreToldApart() {
        let seed = drawnSeed()
        var chance = Chance(seed: seed)
        for number in 0..<(ChanceSetting.cases / 100) {
            var frames: [Frame] = []
            var bytes: [UInt8] = []
            while bytes.count < 4000 {
                var next = randomFrame(&chance)
                if case .data(let stream, _) = next { next = .data(stream: stream, payloadByteCount: 1 + chance.below(300)) }
                guard let header = encoded(next) else { continue }
                frames.append(next)
                bytes += header
                if case .data(_, let payload) = next { bytes += chance.bytes(payload) }
            }
            var offset = 0
            for expected in frames {
                guard case .value(let read, let count) = brink.frame(bytes[offset...]), read == expected else {
                    Issue.record("seed \(seed), case \(number): \(expected) at \(offset)")
                    break
                }
                offset += count
                if case .data(_, let payload) = read { offset += payload }
            }
            #expect(offset == bytes.count, "seed \(seed), case \(number)")
        }
    }

    /// protocol 12.6
    @Test func spoiledFramesDoNoHarm() {
        let seed = drawnSeed()
        var chance = Chance(seed: seed)
        let models = goldenAll.map(\.bytes)
        for number in 0..<ChanceSetting.cases {
            let model = chance.oneIn(2) ? models[chance.below(models.count)] : encoded(randomFrame(&chance)) ?? []
            let bytes = spoiled(model, models, &chance)
            if let problem = examine(bytes) { Issue.record("seed \(seed), case \(number): \(problem) in \(bytes)") }
        }
    }

    /// protocol 10.1, 12.6
    @Test func spoiledHellosDoNoHarm() {
        let seed = drawnSeed()
        var chance = Chance(seed: seed)
        let models = goldenHellos.map(\.bytes)
        for number in 0..<(ChanceSetting.cases / 2) {
            let model = chance.oneIn(2) ? models[chance.below(models.count)] : encoded(randomHello(&chance))
            let bytes = spoiled(model, models, &chance)
            if let problem = examineHello(bytes) {
                Issue.record("seed \(seed), case \(number): \(problem) in \(bytes)")
            }
        }
    }

    /// protocol 12.6
    @Test func randomBytesDoNoHarm() {
        let seed = drawnSeed()
        var chance = Chance(seed: seed)
        for number in 0..<ChanceSetting.cases {
            var bytes = chance.bytes(chance.below(chance.oneIn(8) ? 1200 : 40))
            if !bytes.isEmpty, chance.oneIn(2) { bytes[0] = knownTypes[chance.below(knownTypes.count)] }
            if bytes.count > 1, chance.oneIn(2) { bytes[1] = UInt8(chance.below(64)) }
            if let problem = examine(bytes) { Issue.record("seed \(seed), case \(number): \(problem) in \(bytes)") }
            let greeting = Array(Specification.magic.prefix(chance.below(5))) + bytes
            if let problem = examineHello(greeting) {
                Issue.record("seed \(seed), case \(number): \(problem) in \(greeting)")
            }
        }
    }

    // MARK: What holds for any bytes

    /// Nil, or what is wrong with the decoder's answer.
    private func examine(_ bytes: [UInt8]) -> String? {
        let outcome = brink.frame(bytes)
        switch outcome {
        case .value(let decoded, let count):
            guard count >= 2, count <= bytes.count else { return "consumed \(count) of \(bytes.count) bytes" }
            guard brink.frame(bytes.prefix(count)) == outcome else { return "bytes behind a frame change it" }
            guard brink.frame(bytes.prefix(count - 1)) == .incomplete else { return "a part is taken for the whole" }
            guard let again = encoded(decoded) else { return nil }
            guard again.count <= count else { return "\(decoded) is written longer than it was" }
            guard brink.frame(again) == .value(decoded, byteCount: again.count) else { return "\(decoded) changes" }
        case .incomplete:
            guard bytes.isEmpty || brink.frame(bytes.dropLast()) == .incomplete else { return "fewer bytes say more" }
            let isLong = bytes.count >= Specification.controlFrameMaximum + 4
            guard !isLong else { return "waits for more than a frame may hold" }
        case .fault:
            guard case .fault = brink.frame(bytes + [0x00]) else { return "a fault is forgotten" }
        }
        return nil
    }

    private func examineHello(_ bytes: [UInt8]) -> String? {
        let outcome = brink.hello(bytes)
        switch outcome {
        case .value(let hello, let count):
            guard count >= Hello.leastByteCount, count <= bytes.count else { return "consumed \(count) of \(bytes.count)" }
            guard brink.hello(bytes.prefix(count)) == outcome else { return "bytes behind HELLO change it" }
            guard brink.hello(bytes.prefix(count - 1)) == .incomplete else { return "a part is taken for the whole" }
            guard brink.hello(encoded(hello)) == .value(hello, byteCount: hello.byteCount) else { return "it changes" }
        case .incomplete:
            guard bytes.isEmpty || brink.hello(bytes.dropLast()) == .incomplete else { return "fewer bytes say more" }
            let isLong = bytes.count >= Specification.prefaceByteCount + Specification.helloBodyMaximum
            guard !isLong else { return "waits for more than HELLO may hold" }
        case .fault:
            guard case .fault = brink.hello(bytes + [0x00]) else { return "a fault is forgotten" }
        }
        return nil
    }
}
