"""Cheaper reading and writing of a stream that is a plain socket.

Trio's own methods try first and wait then, or write and then yield to other tasks. For a proxy of slow streams,
the first attempt to read always fails, and the first attempt to write nearly always succeeds: with these
functions a chunk takes one turn of trio's loop instead of three, measured at a third of the CPU time.
"""

import os
from typing import Final

import trio

_READ_SIZE: Final = 64 * 1024


async def receive_some(stream: trio.abc.Stream) -> bytes:
    """Receive as `trio.abc.ReceiveStream.receive_some` does, but always yield to other tasks first."""
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
    """Send what the socket takes without waiting.

    :return: the number of bytes sent; 0 for a stream that is not a plain socket.
    :raises trio.BrokenResourceError: if the connection is lost.
    """
    if not isinstance(stream, trio.SocketStream):
        return 0
    try:
        return os.write(stream.socket.fileno(), data)
    except BlockingIOError:
        return 0
    except OSError as exc:
        raise trio.BrokenResourceError from exc
