import Wire

/// The bytes of every message, written out by hand. The same stand in docs/protocol.md §13; `DocumentTests` compares.
struct Golden<Message> {
    /// The number in the document.
    let number: String
    let message: Message
    let bytes: [UInt8]

    init(_ number: String, _ message: Message, _ text: String) {
        self.number = number
        self.message = message
        bytes = WireTests.bytes(text)
    }
}

let goldenIdentity = SessionIdentity(high: 0x0011_2233_4455_6677, low: 0x8899_aabb_ccdd_eeff)
/// The bytes 0 to 31. The proofs below are made with it.
let goldenSecret = Secret(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f, 0x1011_1213_1415_1617, 0x1819_1a1b_1c1d_1e1f)

let goldenServer = ServerIdentity(run: 0x0102_0304_0506_0708, place: 0x1112_1314_1516_1718)
let goldenServerBytes = bytes("01 02 03 04 05 06 07 08 11 12 13 14 15 16 17 18")

/// Frames of the fixed layout "type, length, varints". For DATA the header.
var goldenFrames: [Golden<Frame>] {
    [
        Golden("13.1", .acknowledgment(offset: 37, dataLimit: 67_108_864), "01 05 25 84 00 00 00"),
        Golden("13.2", .ping(token: 494_878_333), "02 04 9d 7f 3e 7d"),
        Golden("13.3", .pong(token: 494_878_333), "03 04 9d 7f 3e 7d"),
        Golden("13.4", .close(code: .done, reason: ""), "04 01 00"),
        Golden("13.5", .close(code: .stopping, reason: "stop"), "04 05 05 73 74 6f 70"),
        Golden(
            "13.6", .open(stream: 0, target: 0, sendCredit: 65_536, receiveCredit: 262_144),
            "41 0a 00 00 80 01 00 00 80 04 00 00"),
        Golden("13.7", .data(stream: 0, payloadByteCount: 5), "42 06 00"),
        Golden("13.8", .data(stream: 15_292, payloadByteCount: 16_384), "42 80 00 40 02 7b bc"),
        Golden("13.9", .fin(stream: 0, finalSize: 15_293), "43 03 00 7b bd"),
        Golden("13.10", .fin(stream: 1, finalSize: 151_288_809_941_952_652), "43 09 01 c2 19 7c 5e ff 14 e8 8c"),
        Golden("13.11", .reset(stream: 4, code: .refused), "44 02 04 01"),
        Golden("13.12", .streamCredit(stream: 4, limit: 1_048_576), "45 05 04 80 10 00 00"),
        Golden("13.13", .unknown(sequenced: false), "a0 03 01 02 03"),
        Golden("13.14", .unknown(sequenced: true), "e0 00"),
        Golden("13.20", .subflows, "05 00"),
    ]
}

var goldenHellos: [Golden<Hello>] {
    [
        Golden(
            "13.15",
            Hello(
                identity: .none, attempt: 1, received: 0, replay: 0, earlyByteCount: 0,
                dataLimit: 67_108_864),
            """
            54 45 4c 45                                     ; magic
            01 01 00 54                                     ; versions 1 to 1, body of 84 bytes
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ; identity: none
            00 00 00 00 00 00 00 01                         ; attempt 1
            00 00 00 00 00 00 00 00                         ; received 0
            00 00 00 00 00 00 00 00                         ; replay 0
            00 00 00 00                                     ; no early bytes
            00 00 00 00 04 00 00 00                         ; dataLimit 64 MiB
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ; proof: zero
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            """),
        Golden(
            "13.16",
            Hello(
                identity: goldenIdentity, attempt: 7, received: 4660, replay: 37, earlyByteCount: 512,
                dataLimit: 67_112_960,
                proof: MAC(
                    0x6ea6_d3d9_0857_0c58, 0xec86_682c_6e00_e6dd,
                    0xa89a_4fb1_9e25_ca0c, 0xf593_939b_ebd3_6cf5)),
            """
            54 45 4c 45                                     ; magic
            01 01 00 54                                     ; versions 1 to 1, body of 84 bytes
            00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff ; identity
            00 00 00 00 00 00 00 07                         ; attempt 7
            00 00 00 00 00 00 12 34                         ; received 4660
            00 00 00 00 00 00 00 25                         ; replay 37
            00 00 02 00                                     ; 512 early bytes
            00 00 00 00 04 00 10 00                         ; dataLimit 64 MiB + 4 KiB
            6e a6 d3 d9 08 57 0c 58 ec 86 68 2c 6e 00 e6 dd ; proof
            a8 9a 4f b1 9e 25 ca 0c f5 93 93 9b eb d3 6c f5
            """),
    ]
}

var goldenAnswers: [Golden<Frame>] {
    [
        Golden(
            "13.17",
            .welcome(
                Welcome(
                    identity: goldenIdentity, secret: goldenSecret, attempt: 1, epoch: 1,
                    received: 0, dataLimit: 67_108_864, maximumStreams: 100_000,
                    initialCredit: 262_144)),
            """
            11 40 7d                                        ; type, body of 125 bytes
            01                                              ; version 1
            00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff ; identity
            00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f ; secret
            10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f
            00 00 00 00 00 00 00 01                         ; attempt 1
            00 00 00 01                                     ; epoch 1
            00 00 00 00 00 00 00 00                         ; received 0
            00 00 00 00 04 00 00 00                         ; dataLimit 64 MiB
            00 00 00 00 00 01 86 a0                         ; 100 000 streams
            00 00 00 00 00 04 00 00                         ; initialCredit 256 KiB
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ; proof: zero
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            """),
        Golden(
            "13.18",
            .welcome(
                Welcome(
                    identity: goldenIdentity, secret: .zero, attempt: 7, epoch: 2, received: 549,
                    dataLimit: 67_117_056, maximumStreams: 100_000, initialCredit: 262_144,
                    proof: MAC(
                        0x0312_60a9_66ad_9c58, 0xae55_1ccc_858b_c6f4,
                        0xa0b9_04fc_10aa_e7aa, 0xbf7e_fed0_a967_0c79))),
            """
            11 40 7d                                        ; type, body of 125 bytes
            01                                              ; version 1
            00 11 22 33 44 55 66 77 88 99 aa bb cc dd ee ff ; identity
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ; secret: zero
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            00 00 00 00 00 00 00 07                         ; attempt 7
            00 00 00 02                                     ; epoch 2
            00 00 00 00 00 00 02 25                         ; received 549
            00 00 00 00 04 00 20 00                         ; dataLimit 64 MiB + 8 KiB
            00 00 00 00 00 01 86 a0                         ; 100 000 streams
            00 00 00 00 00 04 00 00                         ; initialCredit 256 KiB
            03 12 60 a9 66 ad 9c 58 ae 55 1c cc 85 8b c6 f4 ; proof
            a0 b9 04 fc 10 aa e7 aa bf 7e fe d0 a9 67 0c 79
            """),
        Golden(
            "13.19", .refuse(Refusal(code: .sessionUnknown, attempt: 7, reason: "unknown session")),
            "12 11 02 07 75 6e 6b 6e 6f 77 6e 20 73 65 73 73 69 6f 6e"),
    ]
}

var goldenAll: [Golden<Frame>] { goldenFrames + goldenAnswers }
