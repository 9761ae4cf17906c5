"""A proxy and a fake App Server, with the frames between them carried by hand."""

from typing import Any, Final

import orjson
from attrs import define, field

from sansio_letta import Caller, Config, HttpRequest, Proxy, ResponseBody, ResponseHead, Signal
from sansio_letta.proxy.cycle import Cycle
from sansio_letta.turn.agent import ANYONE
from sansio_letta.upstreams.app_server.connection import AppServerConnection
from sansio_letta.upstreams.app_server.sockets import Channel, OpenSocket, SendFrame

from .fake_server import FakeAppServer

Json = dict[str, Any]
KEY: Final = "k1"


@define(eq=False)
class Client:
    """One request, and what came of it."""

    cycle: Cycle
    status: int | None = None
    headers: dict[str, str] = field(factory=dict)
    body: bytes = b""
    is_over: bool = False

    @property
    def json(self) -> Json:
        found = orjson.loads(self.body)
        assert isinstance(found, dict)
        return found

    @property
    def message(self) -> Json:
        message = self.json["choices"][0]["message"]
        assert isinstance(message, dict)
        return message

    @property
    def calls(self) -> list[Json]:
        calls = self.message["tool_calls"]
        assert isinstance(calls, list)
        return calls


@define(eq=False)
class Wire:
    """Carries frames until nothing more moves."""

    server: FakeAppServer = field(factory=FakeAppServer)
    config: Config = field(factory=Config)
    proxy: Proxy = field(init=False)
    connection: AppServerConnection = field(init=False)
    clients: list[Client] = field(factory=list)
    now: float = 0.0
    refuses: bool = False  #: no socket can be opened

    def __attrs_post_init__(self) -> None:
        self.restart_proxy()

    def restart_proxy(self) -> None:
        """A new process in the old one's place, which knows nothing."""
        for channel in list(self.server.open):
            self.server.lose(channel)
        self.connection = AppServerConnection()
        self.proxy = Proxy(self.config, app_server=self.connection)

    def begin(
        self,
        *messages: Json,
        tools: tuple[str, ...] = (),
        key: str | None = "k1",
        conversation: str | None = None,
        retry_count: int | None = None,
        **more: Any,
    ) -> Client:
        """Send a chat request, and carry what follows."""
        offered = [{"type": "function", "function": {"name": name}} for name in tools]
        body: Json = {"model": "Milo", "messages": list(messages), **more}
        if offered:
            body["tools"] = offered
        headers = [("x-letta-chat-key", key)] if key is not None else []
        if conversation is not None:
            headers.append(("x-letta-conversation-id", conversation))
        if retry_count is not None:
            headers.append(("x-stainless-retry-count", str(retry_count)))
        target = "/v1/chat/completions"
        request = HttpRequest(method="POST", target=target, headers=headers, body=orjson.dumps(body))
        return self.send(request)

    def send(self, request: HttpRequest, caller: Caller = ANYONE) -> Client:
        token, created = f"token{len(self.clients):08}", 1_764_000_000
        client = Client(self.proxy.open(request, token=token, created=created, now=self.now, caller=caller))
        self.clients.append(client)
        self.carry()
        return client

    def get(self, target: str) -> Client:
        return self.send(HttpRequest(method="GET", target=target))

    def ask(self, *messages: Json, **more: Any) -> Client:
        """The same, for a request that is answered at once."""
        client = self.begin(*messages, **more)
        assert client.is_over, client.cycle.turn and client.cycle.turn.phase
        return client

    def carry(self) -> None:
        """Carry frames and let the clients' cycles go on, until nothing moves."""
        while self._carry_frames() | self._drive():
            pass

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.connection.handle_deadline(self.now)
        for client in self.clients:
            if not client.is_over:
                client.cycle.handle_deadline(self.now)
        self.carry()

    def leave(self, client: Client) -> None:
        """A client goes away."""
        client.cycle.client_disconnected(self.now)
        self.carry()

    def lose(self, channel: Channel) -> None:
        """A socket breaks."""
        self.server.lose(channel)
        self.connection.socket_lost(channel, "it was closed", self.now)
        self.carry()

    def _carry_frames(self) -> bool:
        moved = False
        while not isinstance(command := self.connection.next_command(self.now), Signal):
            moved = True
            match command:
                case OpenSocket(channel=channel) if self.refuses:
                    self.connection.socket_lost(channel, "connection refused", self.now)
                case OpenSocket(channel=channel):
                    self.server.connect(channel)
                    self.connection.socket_opened(channel, self.now)
                case SendFrame(channel=channel, data=data):
                    self.server.receive(channel, data)
        for channel, data in self.server.take():
            moved = True
            self.connection.receive_frame(channel, data, self.now)
        return moved

    def _drive(self) -> bool:
        moved = False
        for client in self.clients:
            while not client.is_over:
                item = client.cycle.next_event()
                if item is Signal.FINISHED:
                    client.is_over = moved = True
                elif isinstance(item, ResponseHead):
                    client.status, moved = item.status, True
                    client.headers = dict(item.headers)
                elif isinstance(item, ResponseBody):
                    client.body, moved = client.body + item.data, True
                else:
                    assert item is Signal.WAITING, item
                    break
        return moved


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def result(call: Json, text: str) -> Json:
    return {"role": "tool", "tool_call_id": call["id"], "content": text}
