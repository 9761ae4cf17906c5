"""A folder of recordings that does not grow for ever."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from attrs import field, frozen, validators

from sansio_letta import PRODUCT_ID, Cycle, HttpRequest
from sansio_letta.recording.format import RecordingHead, TextMode
from sansio_letta.recording.writer import RecordedCycle, record

_SUFFIX: Final = ".jsonl"


@frozen(kw_only=True)
class RecordingFolder:
    """Where turns are recorded, one file each.

    :param path: made if it is not there; readable by its owner alone.
    :param text: what is written of texts; keys never are.
    :param max_count: files kept; the oldest go first.
    :param max_size: bytes of all files together; the oldest go first.
    """

    path: Path = field(converter=Path)
    text: TextMode = TextMode.DROP
    max_count: int = field(default=1000, validator=validators.ge(1))
    max_size: int = field(default=256 * 1024 * 1024, validator=validators.ge(1))

    def prepare(self) -> None:
        """Make the folder, if need be, and try whether a recording can be made in it.

        :raises OSError: if it cannot.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryFile(dir=self.path) as file:
            file.write(b"a recording")

    def record(
        self,
        cycle: Cycle,
        request: HttpRequest,
        *,
        token: str,
        created: int,
        now: float,
        on_error: Callable[[OSError], None] | None = None,
    ) -> RecordedCycle:
        """Record a cycle in a file of its own.

        :param cycle: just opened with the same `token`, `created` and `now`.
        :param on_error: told once if a line cannot be written; the rest of the turn is not recorded then, and
            goes on. Without it the cycle raises.
        :raises OSError: if the file cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_room()
        name = f"{created}-{token[:12]}"
        head = RecordingHead.begin(
            server=PRODUCT_ID,
            scenario=name,
            note=f"{request.method} {request.target.partition('?')[0][:200]}",
            token=token,
            created=created,
            config=cycle.config,
            text=self.text,
        )
        path = self.path / f"{name}{_SUFFIX}"
        path.touch(mode=0o600, exist_ok=False)
        return record(cycle, request, head, _sink(path, on_error), now=now)

    def _make_room(self) -> None:
        """Delete the oldest files that are beyond the limits, one file to come included."""
        files = sorted(self._files())
        size = sum(item[1] for item in files)
        while files and (len(files) >= self.max_count or size > self.max_size):
            _, gone, path = files.pop(0)
            size -= gone
            path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        for path in self.path.glob(f"*{_SUFFIX}"):
            # Another process makes room, too.
            with suppress(FileNotFoundError):
                found = path.stat()
                yield found.st_mtime_ns, found.st_size, path


def _sink(path: Path, on_error: Callable[[OSError], None] | None) -> Callable[[bytes], None]:
    """Each line is out of our hands when it is written: a crash takes no more than the line under way."""
    failed = False

    def write(line: bytes) -> None:
        nonlocal failed
        if failed:
            return
        try:
            with open(path, "ab", opener=_existing) as file:
                file.write(line)
        except FileNotFoundError:
            # It made room for newer ones. Another of its name would have no head, and be open to all.
            failed = True
        except OSError as exc:
            failed = True
            if exc.filename is None:
                # Opening names the file, writing does not.
                exc.filename = str(path)
            if on_error is None:
                raise
            on_error(exc)

    return write


def _existing(path: str, _: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND)
