"""Letta's response to a command, received as a whole, and the error that it stands for."""

from collections.abc import Sequence
from typing import TypeAlias

from attrs import define, field

from ...errors import (
    LettaError,
    RemoteProtocolError,
    SansioLettaError,
    http_failure,
)
from . import letta

#: Pairs of lower-case name and value.
Headers: TypeAlias = Sequence[tuple[str, str]]


@define
class Response:
    """A response of Letta's. Its body is buffered.

    :param max_size: limit for the body, in bytes.
    :param key_is_clients: whether the command was sent with the client's own key.
    """

    status: int
    headers: Headers
    max_size: int
    key_is_clients: bool = False
    _body: bytearray = field(factory=bytearray, init=False)

    @property
    def content_type(self) -> str:
        """The media type without its parameters, or an empty string."""
        return (self._header("content-type") or "").partition(";")[0].strip().lower()

    def receive_data(self, data: bytes) -> None:
        """Add bytes of the body. If it is larger than `max_size`, `data` raises."""
        if len(self._body) <= self.max_size:
            self._body += data

    @property
    def data(self) -> bytes:
        """The body of a successful response.

        :raises LettaError: if the status is not 200.
        :raises RemoteProtocolError: if the body is too large.
        """
        if self.status != 200:
            raise self.error()
        if len(self._body) > self.max_size:
            raise RemoteProtocolError(f"Letta's answer is larger than {self.max_size} bytes.")
        return bytes(self._body)

    @property
    def refusal(self) -> letta.ErrorBody:
        """The body of an error response."""
        return letta.decode_error_body(bytes(self._body))

    def cancelled(self, run_id: str) -> bool:
        """Return whether this response confirms that the run was cancelled."""
        return self.status == 200 and letta.decode_cancelled(bytes(self._body), run_id)

    def take(self) -> bytes:
        """Remove and return the part of the body that has been received."""
        data = bytes(self._body)
        self._body.clear()
        return data

    def error(self) -> SansioLettaError:
        """Return an error response as an error for the client."""
        if 300 <= self.status < 400:
            return LettaError(
                f"Letta answered with a redirect ({self.status}): the base URL must be its final address."
            )
        return http_failure(
            self.status, self.refusal.text, self._retry_after(), key_is_clients=self.key_is_clients
        )

    def _retry_after(self) -> int | None:
        value = self._header("retry-after") or ""
        # Converting a very long number would take long, and the advice is capped anyway.
        return int(value[:9]) if value.isascii() and value.isdigit() else None

    def _header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)
