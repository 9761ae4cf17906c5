"""`letta-proxy serve` that also tells how many tasks live: ``python tests/load/served.py LETTA_URL``.

The first line is its URL; each SIGUSR1 makes it write one more, the number of its tasks. The server is the one
of the command; what is missing is the command line.
"""

import os
import signal
import sys

import structlog
import trio

from letta_server import Settings, serve


async def main(letta_url: str) -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as asked:
        async with trio.open_nursery() as nursery:
            _, listeners = await nursery.start(serve, Settings(port=0, letta_url=letta_url))
            print(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
            async for _ in asked:
                print(trio.lowlevel.current_statistics().tasks_living, flush=True)


if __name__ == "__main__":
    # Each request's line is written, as it would be, and a defect is seen by who reads them.
    log = open(os.environ["LOAD_LOG"], "w")  # noqa: SIM115
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=log),
    )
    trio.run(main, sys.argv[1])
