"""Reading and writing a stream at less cost where it is a plain socket.

Trio's own methods first try and then wait, or do and then let others run. For a proxy of slow streams the first
try always fails when reading, and nearly always does all when writing: one turn of trio's loop for each chunk
instead of three, measured at a third of the CPU time.
"""

import os
from typing import Final

import trio

_READ_SIZE: Final = 64 * 1024


async def receive_some(stream: trio.abc.Stream) -> bytes:
    """As `trio.abc.ReceiveStream.receive_some`; waits even if bytes are there."""
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(_READ_SIZE))
    while True:
        await trio.lowlevel.wait_readable(stream.socket)
        try:
            return os.read(stream.socket.fileno(), _READ_SIZE)
        except BlockingIOError:
            continue
        except OSError as exc:
            raise trio.BrokenResourceError from exc


def send_now(stream: trio.abc.Stream, data: bytes | bytearray) -> int:
    """Send what the socket takes at once.

    :return: how many bytes; 0 for a stream that is no plain socket.
    :raises trio.BrokenResourceError: if the connection is gone.
    """
    if not isinstance(stream, trio.SocketStream):
        return 0
    try:
        return os.write(stream.socket.fileno(), data)
    except BlockingIOError:
        return 0
    except OSError as exc:
        raise trio.BrokenResourceError from exc
