"""A relay that cheats in one way. The suite runs its cases through it to see that they notice.

    lose     drops one byte of each direction after 100 000 bytes
    double   sends 1000 bytes twice after 100 000 bytes
    short    ends a direction in order while its last byte is missing
    deaf     ends both directions when one of them ends (no half-close)
    greedy   reads without bound what nobody reads at the other end
    lane     one direction at a time: who does not read stops everybody
"""

import asyncio
import socket
import sys

AFTER = 100_000
mode, listen_port, host, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lane = asyncio.Lock()


async def carry(reader, writer, both):
    seen, cheated, last = 0, False, b""
    try:
        while data := await reader.read(262144):
            crossing = seen < AFTER <= seen + len(data)
            seen += len(data)
            if crossing and not cheated and mode == "lose":
                data, cheated = data[:-1], True
            if crossing and not cheated and mode == "double":
                data, cheated = data + data[-1000:], True
            if mode == "short":
                data, last = last + data[:-1], data[-1:]
            writer.write(data)
            if mode == "lane":
                async with lane:
                    await writer.drain()
            elif mode != "greedy":
                await writer.drain()
        if mode == "deaf":
            for each in both:
                each.close()
        else:
            writer.write_eof()
    except OSError:
        for each in both:
            each.transport.abort()


async def serve(reader, writer):
    try:
        origin_reader, origin_writer = await asyncio.open_connection(host, port)
    except OSError:
        writer.transport.abort()
        return
    both = (writer, origin_writer)
    for each in both:
        each.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.gather(carry(reader, origin_writer, both), carry(origin_reader, writer, both),
                         return_exceptions=True)
    for each in both:
        each.close()


async def main():
    # A stream reader has its own small limit; only the greedy one never waits for its writer.
    server = await asyncio.start_server(serve, "127.0.0.1", listen_port, limit=1 << 20, backlog=4096)
    async with server:
        await server.serve_forever()

asyncio.run(main())
