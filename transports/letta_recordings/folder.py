"""A folder of recordings with a limited size."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from attrs import define, field, frozen, validators

from sansio_letta import PRODUCT_ID
from sansio_letta.recording.format import TextMode
from sansio_letta.recording.writer import Recorder

_SUFFIX: Final = ".jsonl"


@frozen(kw_only=True)
class RecordingFolder:
    """A folder in which turns are recorded, one file each.

    :param path: created if it does not exist, readable only by its owner.
    :param text: how texts are written; keys are never written.
    :param max_count: maximum number of files; beyond it, the oldest are deleted.
    :param max_size: maximum size of all files in bytes; beyond it, the oldest are deleted.
    """

    path: Path = field(converter=Path)
    text: TextMode = TextMode.DROP
    max_count: int = field(default=1000, validator=validators.ge(1))
    max_size: int = field(default=256 * 1024 * 1024, validator=validators.ge(1))

    def prepare(self) -> None:
        """Create the folder if necessary, and check that files can be created in it.

        :raises OSError: if they cannot.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryFile(dir=self.path) as file:
            file.write(b"a recording")

    def recorder(
        self, *, token: str, created: int, on_error: Callable[[OSError], None] | None = None
    ) -> Recorder:
        """Make an observer that records a cycle in a new file.

        :param token: that of `Proxy.open`; it becomes part of the file's name.
        :param created: that of `Proxy.open`.
        :param on_error: called once if a line cannot be written: the cycle continues without being recorded.
            Without it, the cycle raises the error.
        """
        path = self.path / f"{created}-{token[:12]}{_SUFFIX}"
        return Recorder(_Sink(self, path, on_error), server=PRODUCT_ID, text=self.text)

    def make_file(self, path: Path) -> None:
        """Create an empty file in the folder, after deleting old ones if necessary.

        :raises OSError: if that fails.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make_room()
        path.touch(mode=0o600, exist_ok=False)

    def _make_room(self) -> None:
        """Delete the oldest files beyond the limits, counting one new file."""
        files = sorted(self._files())
        size = sum(item[1] for item in files)
        while files and (len(files) >= self.max_count or size > self.max_size):
            _, gone, path = files.pop(0)
            size -= gone
            path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        for path in self.path.glob(f"*{_SUFFIX}"):
            # Another process may have deleted it.
            with suppress(FileNotFoundError):
                found = path.stat()
                yield found.st_mtime_ns, found.st_size, path


@define
class _Sink:
    """Appends each line to the file at once: a crash loses only the current line."""

    folder: RecordingFolder
    path: Path
    on_error: Callable[[OSError], None] | None
    _is_made: bool = field(default=False, init=False)
    _has_failed: bool = field(default=False, init=False)

    def __call__(self, line: bytes) -> None:
        if self._has_failed:
            return
        try:
            if not self._is_made:
                self.folder.make_file(self.path)
                self._is_made = True
            with open(self.path, "ab", opener=_existing) as file:
                file.write(line)
        except OSError as exc:
            self._has_failed = True
            if self._is_made and isinstance(exc, FileNotFoundError):
                return  # it was deleted for newer ones; a new file would have no head
            if exc.filename is None:
                # Errors of opening name the file, those of writing do not.
                exc.filename = str(self.path)
            if self.on_error is None:
                raise
            self.on_error(exc)


def _existing(path: str, _: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND)
