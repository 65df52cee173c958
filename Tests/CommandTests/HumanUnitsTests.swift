import Testing

@testable import tele

@Suite struct FiguresTests {
    @Test(
        arguments: [
            (0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (12_600, "12.3 KiB"), (67_108_864, "64.0 MiB"), (1_047_000, "1.00 MiB"), (5e12, "4.55 TiB"),
        ] as [(Double, String)])
    func bytesHaveThreeDigits(_ count: Double, _ text: String) { #expect(HumanUnits.bytes(count) == text) }

    @Test(
        arguments: [
            (0.0003, "0.30 ms"), (0.0123, "12.3 ms"), (2.306, "2.31 s"), (59.96, "60.0 s"), (725, "12 min"), (11_100, "3 h 5 min"), (187_200, "2 d 4 h"),
        ] as [(Double, String)])
    func secondsHaveAUnit(_ seconds: Double, _ text: String) { #expect(HumanUnits.seconds(seconds) == text) }

    @Test(arguments: [(0, "0.00 %"), (0.0001, "<0.1 %"), (0.0112, "1.12 %"), (0.5, "50.0 %"), (1, "100 %")] as [(Double, String)])
    func partsArePercent(_ part: Double, _ text: String) { #expect(HumanUnits.percent(part) == text) }

    @Test func aSparkIsAsHighAsItsValue() {
        #expect(HumanUnits.spark([]) == "")
        #expect(HumanUnits.spark([0, 0]) == "▁▁")
        #expect(HumanUnits.spark([0, 1, 4, 8]) == "▁▁▄█")
    }

    @Test func escapesTakeNoColumn() {
        #expect(Terminal.clipped("ab\u{1b}[31mcd\u{1b}[0mef", 3) == "ab\u{1b}[31mc\u{1b}[0m")
        #expect(Terminal.clipped("▁▂▃", 2) == "▁▂")
    }
}
