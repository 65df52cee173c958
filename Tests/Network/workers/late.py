#!/usr/bin/env python3
"""A long path in the middle: late.py PORT TARGET SECONDS passes connections on to 127.0.0.1:TARGET, each byte late by SECONDS each way.

Prints on how many of them the client has said something, a line whenever that changes.
"""

import asyncio
import socket
import sys

begun = 0


async def pass_on(reader, writer, delay, is_up):
    queue = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def read():
        global begun
        is_first = is_up
        try:
            while data := await reader.read(1 << 16):
                if is_first:
                    is_first = False
                    begun += 1
                    print(begun, flush=True)
                queue.put_nowait((loop.time() + delay, data))
        except OSError:
            pass
        queue.put_nowait((loop.time() + delay, b""))
    reading = asyncio.create_task(read())
    try:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0, due - loop.time()))
            if not data:
                break
            writer.write(data)
    except OSError:
        pass
    finally:
        reading.cancel()
        writer.close()


async def main():
    port, target, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    async def take(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        for end in (writer, far_writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(pass_on(reader, far_writer, delay, True), pass_on(far_reader, writer, delay, False))

    server = await asyncio.start_server(take, "0.0.0.0", port, backlog=4096)
    await server.serve_forever()


asyncio.run(main())
