"""Runs without a known id: marked, found, cancelled or resumed, whatever fails before the first ping."""

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from drive import AGENT, AGENT_ID, DONE, PING, RUN_ID, USAGE, say, stop
from drive_cycle import Client, chat
from sansio_letta import Config, Proxy
from sansio_letta.config import Background
from sansio_letta.errors import Failure
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest.agents import to_agent
from sansio_letta.upstreams.rest.commands import (
    CancelRun,
    Command,
    FetchKept,
    FetchRun,
    FetchUsage,
    FindRuns,
    OpenStream,
)
from sansio_letta.upstreams.rest.lookup import RunCriteria, RunMark, read_mark

if TYPE_CHECKING:
    from collections.abc import Callable

CANCEL: Command = CancelRun(agent_id=AGENT_ID, run_id=RUN_ID)
LIST: Command = FindRuns(agent_id=AGENT_ID)
TOKEN = "abcdef12"
#: A run must be listed within the three pauses of a quarter, a half and a second.
CONFIG = Config(first_item_timeout=1.5, turn_timeout=3600.0)
#: Of an SDK that would ask again.
FIRST, SECOND = {"x-stainless-retry-count": "0"}, {"x-stainless-retry-count": "1"}


def house(config: Config = CONFIG) -> Proxy:
    made = Proxy(config, owner="host-1")
    made.remember("Milo", AGENT, now=100.0)
    return made


def opened(client: Client) -> OpenStream:
    [command] = [command for command in client.commands if isinstance(command, OpenStream)]
    return command


def mark_of(client: Client) -> str:
    mark = opened(client).request.assistant_message_tool_kwarg
    assert mark is not None
    return mark


def listed(mark: str | None, *, run_id: str = RUN_ID, status: str = "running", **more: Any) -> Any:
    """A run as Letta lists it."""
    shown = None if mark is None else {"assistant_message_tool_kwarg": mark}
    return {"id": run_id, "agent_id": AGENT_ID, "status": status, "request_config": shown, **more}


def seeks_run(client: Client) -> bool:
    """Whether it goes on for a name alone."""
    return client.cycle.seeks_run


def until_told(client: Client, runs: object, *, now: float) -> float:
    """Answer the search with these runs until it has an end."""
    while client.commands[-1] == LIST and not client.ended:
        if client.waits:
            now += 2.0
            client.go_on(now=now)
        else:
            client.answer(runs, now=now)
    return now


# --- Marks


def test_each_run_has_a_mark_of_its_own() -> None:
    client = Client(chat(), house())
    mark = read_mark(
        letta.Run(
            id="r",
            status="running",
            request_config=letta.RequestConfig(assistant_message_tool_kwarg=mark_of(client)),
        )
    )
    assert mark == RunMark(token=f"{TOKEN}-1", owner="host-1", until=1_795_332_551 + 3600)
    assert orjson.loads(opened(client).body)["assistant_message_tool_kwarg"] == mark.text


@pytest.mark.parametrize(
    "text",
    [
        "message",
        "",
        "letta-proxy-run.a.b",
        "letta-proxy-run.a.b.c",
        "letta-proxy-run.a.b.1.2",
        "other.a.b.1",
        "letta-proxy-run.a.b.٣",
        "letta-proxy-run." + "a" * 10_000 + ".b.1",
        None,
    ],
)
def test_marks_of_others_are_none(text: str | None) -> None:
    config = letta.RequestConfig(assistant_message_tool_kwarg=text)
    assert read_mark(letta.Run(id="run-1", status="running", request_config=config)) is None
    assert read_mark(letta.Run(id="run-1", status="running")) is None


@pytest.mark.parametrize(
    "more",
    [
        {"agent_type": "memgpt_v2_agent"},
        {"tools": (letta.OwnTool(name="send_message", tool_type="letta_core"),)},
    ],
)
def test_an_agent_that_speaks_by_a_tool_gets_no_mark(more: dict[str, Any]) -> None:
    """The mark would be the name of the argument that its text is taken from."""
    proxy = Proxy(CONFIG)
    agent = to_agent(letta.Agent(**{"id": AGENT_ID, "name": "Milo", "agent_type": "letta_v1_agent", **more}))
    proxy.remember("Milo", agent, now=100.0)
    client = Client(chat(), proxy)
    assert client.commands == [LIST]
    client.answer([listed(None, run_id="run-1"), listed(None, run_id="run-2")])
    assert opened(client).request.assistant_message_tool_kwarg is None
    client.fail(Failure.BROKEN)
    client.answer(
        [listed(None), listed(None, run_id="run-2"), listed(None, run_id="run-3", conversation_id="c")]
    )
    assert client.commands[-1] == FetchRun(run_id=RUN_ID)


def test_runs_that_cannot_be_listed_before_cannot_be_told_apart() -> None:
    proxy = Proxy(CONFIG)
    legacy = to_agent(letta.Agent(id=AGENT_ID, name="Milo", agent_type="memgpt_v2_agent"))
    proxy.remember("Milo", legacy, now=100.0)
    client = Client(chat(), proxy).answer({"detail": "Not Found"}, 404)
    client.fail(Failure.BROKEN)
    assert (client.status, [type(command) for command in client.commands]) == (424, [FindRuns, OpenStream])


def test_a_proxy_may_be_told_to_leave_runs_alone() -> None:
    client = Client(chat(), house(Config(finds_runs=False)))
    assert opened(client).request.assistant_message_tool_kwarg is None
    assert client.fail(Failure.BROKEN).status == 424


@pytest.mark.parametrize(
    ("runs", "found", "is_sure"),
    [
        ([], None, True),
        ([listed("message", run_id="run-1")], None, True),
        ([listed(None, run_id="run-1")], None, False),  # Letta does not show how it was asked for
        ([listed("message", run_id="run-1"), listed("mine")], RUN_ID, True),
    ],
)
def test_what_a_list_tells(runs: list[Any], found: str | None, is_sure: bool) -> None:
    got = RunCriteria(agent_id=AGENT_ID, mark="mine").pick(letta.decode_runs(orjson.dumps(runs)))
    assert (got.run and got.run.id) == found
    assert found is not None or got.is_sure == is_sure


def test_two_runs_that_might_be_it_are_neither() -> None:
    criteria = RunCriteria(agent_id=AGENT_ID, before=frozenset({"run-1"}))
    runs = [listed(None, run_id=f"run-{number}") for number in (3, 2, 1)]
    got = criteria.pick(letta.decode_runs(orjson.dumps(runs)))
    assert (got.run, got.is_sure) == (None, False)


# --- The stream broke before the first ping


def broken(how: str, client: Client) -> None:
    """The ways in which a stream ends before it has named its run."""
    match how:
        case "broken" | "silent":
            client.fail(Failure(how))
        case "ended":
            client.stream(now=103.0)  # no bytes are its end
        case "rubbish":
            client.stream("rubbish")
        case "page":
            client.answer("<html>", 200)
        case "gateway":
            client.answer("<html>", 502)


WAYS = ("broken", "silent", "ended", "rubbish", "page", "gateway")


@pytest.mark.parametrize("how", WAYS)
def test_its_run_is_found_and_told_to_its_end(how: str) -> None:
    client = Client(chat(stream=True), house(Config(background="never")))  # type: ignore[arg-type]
    broken(how, client)
    assert client.commands[-1] == LIST
    client.answer([]).go_on(now=104.0)  # Letta has not begun it yet
    client.answer([listed("another's", run_id="run-1"), listed(mark_of(client))])
    client.answer({"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    assert client.commands[-1] == FetchKept(run_id=RUN_ID)
    client.answer([say("Hello")]).answer(USAGE)
    assert client.ended
    assert client.status == 200
    assert client.body.count(b"Hello") == 1
    assert client.cycle.summary.outcome == "stop"


@pytest.mark.parametrize("how", WAYS)
def test_a_run_that_was_never_begun_may_be_asked_for_again(how: str) -> None:
    client = Client(chat(headers=FIRST), house())
    broken(how, client)
    until_told(client, [listed("another's", run_id="run-1")], now=104.0)
    assert client.ended
    assert client.cycle.summary.kept == "nothing"
    assert client.status in (502, 504)


def test_of_a_letta_that_does_not_tell_nothing_is_known() -> None:
    client = Client(chat(headers=FIRST), house())
    client.fail(Failure.BROKEN)
    client.answer({"detail": "no such route"}, 404)
    assert (client.ended, client.status) == (True, 424)


def test_a_background_run_is_read_from_its_start() -> None:
    proxy = house()
    client = Client(chat(), proxy)
    assert opened(client).request.background
    client.fail(Failure.BROKEN)
    client.answer([listed(mark_of(client))])
    client.answer({"id": RUN_ID, "status": "running"})
    resumed = client.commands[-1]
    assert orjson.loads(resumed.body or b"") == {"starting_after": 0}
    client.stream(PING, say("Hello"), stop(), USAGE, DONE)
    assert client.json()["choices"][0]["message"]["content"] == "Hello"


# --- The client has left


@pytest.mark.parametrize("how", WAYS)
def test_it_is_ended_for_a_client_that_has_left(how: str) -> None:
    proxy = house()
    client = Client(chat(), proxy).leave(now=102.0)
    assert seeks_run(client)
    broken(how, client)
    assert seeks_run(client)
    next_one = Client(chat(content="and this"), proxy, token="second12", now=103.0)
    client.answer([]).go_on(now=104.0)
    assert seeks_run(client)
    assert next_one.waits, "the thread is taken as long as the run may go on"
    client.answer([listed(mark_of(client))])
    assert client.commands[-1] == CANCEL
    assert not seeks_run(client)
    client.answer({RUN_ID: "cancelled"})
    assert client.ended
    assert client.body == b""
    assert type(next_one.go_on().commands[-1]) is OpenStream


def test_a_run_that_is_over_needs_no_end() -> None:
    client = Client(chat(), house()).leave().fail(Failure.BROKEN)
    client.answer([listed(mark_of(client), status="completed")])
    assert client.ended
    assert CANCEL not in client.commands


def test_who_has_no_time_left_looks_at_once() -> None:
    client = Client(chat(), house()).leave()
    client.cycle.hurry(103.0)
    client.pump()
    assert client.commands[-1] == LIST
    client.answer([listed(mark_of(client), status="created")])
    assert client.commands[-1] == CANCEL


@pytest.mark.parametrize("event", [PING, None], ids=["a name", "nothing"])
def test_nobody_waits_for_a_name_longer_than_for_a_first_item(event: Any) -> None:
    client = Client(chat(), house()).leave(now=100.5)
    if event is not None:
        client.stream(event, now=101.0)
        assert client.commands[-1] == CANCEL
    else:
        client.go_on(now=101.5)
        assert client.commands[-1] == LIST


# --- The proxy itself ends


def interrupted(client: Client, timeout: float = 7.0) -> Client:
    client.cycle.shut_down(103.0, timeout)
    client.pump()
    return client


def test_an_interruption_does_not_wait_for_a_late_name() -> None:
    client = interrupted(Client(chat(headers=FIRST), house()))
    assert client.commands[-1] == LIST
    client.answer([listed(mark_of(client), status="created")])
    assert client.commands[-1] == CANCEL
    client.answer({RUN_ID: "cancelled"}, now=103.0)
    assert client.waits
    client.go_on(now=104.0)
    assert client.commands[-1] == FetchKept(run_id=RUN_ID)
    client.answer([])
    assert (client.ended, client.status, client.headers["retry-after"]) == (True, 503, "1")


@pytest.mark.parametrize(
    ("cancelled", "kept"),
    [({RUN_ID: "failed"}, None), ({RUN_ID: "cancelled"}, [say("Hello")])],
    ids=["not confirmed", "a step was kept"],
)
def test_what_may_have_been_kept_is_not_asked_for_elsewhere(cancelled: object, kept: object) -> None:
    client = interrupted(Client(chat(headers=FIRST), house()))
    client.answer([listed(mark_of(client))]).answer(cancelled)
    if kept is not None:
        client.go_on(now=104.0).answer(kept)
    assert (client.ended, client.status) == (True, 424)


def test_the_client_hears_in_time_what_is_known() -> None:
    client = interrupted(Client(chat(headers=FIRST), house()))
    client.answer([])
    assert client.waits
    client.go_on(now=110.0)
    assert client.status == 424
    assert not client.ended
    # And what is left of the time is for the run.
    client.go_on(now=110.0).answer([listed(mark_of(client))])
    assert client.commands[-1] == CANCEL
    assert client.answer({RUN_ID: "cancelled"}).ended


def test_where_runs_cannot_be_found_the_name_is_waited_for() -> None:
    client = interrupted(Client(chat(headers=FIRST), house(Config(finds_runs=False))))
    assert client.cycle.next_deadline() == 110.0
    client.go_on(now=110.0)
    assert client.status == 424
    assert seeks_run(client)
    client.stream(PING, now=111.0)
    assert client.commands[-1] == CANCEL


def test_what_comes_of_an_exchange_that_was_cut_off_is_of_no_interest() -> None:
    """A transport may be reading just then."""
    client = Client(chat(headers=FIRST), house())
    client.cycle.shut_down(103.0)
    client.cycle.receive_response(200, [("content-type", "text/event-stream")], 103.0)
    client.cycle.receive_data(b"data: x", 103.0)
    client.cycle.receive_failure(Failure.BROKEN, "it broke", 103.0)
    client.pump()
    assert client.commands[-1] == LIST
    assert client.answer([listed(mark_of(client))]).commands[-1] == CANCEL


# --- Repeats


def test_a_repeat_finds_the_run_that_its_first_request_began_late() -> None:
    """The first client leaves, another waits; the repeat comes before the first run has a name."""
    proxy = house(Config())
    first = Client(chat(headers=FIRST), proxy).leave(now=100.3)
    other = Client(chat(content="other", headers=FIRST), proxy, token="second12", now=100.4)
    first.go_on(now=100.6)
    repeat = Client(chat(headers=SECOND), proxy, token="third123", now=100.8)
    assert (first.ended, other.waits, repeat.waits) == (False, True, True)
    first.stream(PING, now=101.5)
    assert first.commands[-1] == CANCEL
    assert first.answer({}, now=101.6).ended
    assert other.go_on(now=101.6).waits, "Letta may keep what it has cancelled"
    other.go_on(now=102.6).stream(PING, say("Hi"), stop(), USAGE, DONE, now=103.0)
    assert other.ended
    repeat.go_on(now=103.0)
    assert repeat.commands == [FetchRun(run_id=RUN_ID)], "it looks what became of the first"
    repeat.answer({"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"})
    repeat.answer([say("Hello")]).answer(USAGE)
    assert repeat.json()["choices"][0]["message"]["content"] == "Hello"
    assert repeat.cycle.summary.repeat is not None
    assert repeat.cycle.summary.repeat.value == "taken up"


def test_a_repeat_looks_for_a_run_that_was_not_found() -> None:
    proxy = house()
    first = Client(chat(headers=FIRST), proxy)
    first.fail(Failure.BROKEN).answer({"detail": "away"}, 404)
    assert first.status == 424
    again = Client(chat(headers=FIRST), proxy, token="second12", now=110.0)
    assert again.commands == [LIST]
    again.answer([listed(mark_of(first))])
    assert again.commands[-1] == FetchRun(run_id=RUN_ID)


@pytest.mark.parametrize("answer", [[], [listed("another's", run_id="run-1")]])
def test_a_repeat_of_what_never_began_is_said(answer: object) -> None:
    proxy = house()
    first = Client(chat(headers=FIRST), proxy)
    first.fail(Failure.BROKEN).answer({"detail": "away"}, 404)
    again = Client(chat(headers=FIRST), proxy, token="second12", now=110.0).answer(answer)
    assert type(again.commands[-1]) is OpenStream


# --- At every moment


class Books:
    """A Letta of one agent: its run is listed from some step on, and named from some step on."""

    def __init__(self, client: Client, begins_at: int, named_at: int) -> None:
        self.client, self.begins_at, self.named_at = client, begins_at, named_at
        self.step, self.now = 0, 103.0
        self.status, self.was_asked = "none", False
        self.count = 0  #: commands that were looked at
        self.at_once = 0  #: runs that were asked for while one went on

    def go(self) -> None:
        """Answer, or let time pass, until the turn is over."""
        client = self.client
        while not client.ended:
            self.step += 1
            assert self.step < 200, "it never ends"
            if self.status == "none" and self.was_asked and self.step >= self.begins_at:
                self.status = "running"
            command = client.commands[-1]
            if client.waits:
                self.now += 2.0
                client.go_on(now=self.now)
            elif isinstance(command, OpenStream):
                if not self.was_asked:
                    self.was_asked = True
                elif self.step >= self.named_at and self.status != "none":
                    client.stream(PING, now=self.now)
                else:
                    self.now += 0.7
                    client.go_on(now=self.now)
            else:
                client.answer(self._say(command), now=self.now)

    def _say(self, command: Command) -> object:
        match command:
            case FindRuns() if self.status != "none":
                return [listed(mark_of(self.client), status=self.status)]
            case FindRuns():
                return []
            case CancelRun():
                self.status = "cancelled"
                return {RUN_ID: "cancelled"}
            case FetchRun():
                self.status = "completed"
                return {"id": RUN_ID, "status": "completed", "stop_reason": "end_turn"}
            case FetchKept():
                return [] if self.status == "cancelled" else [say("Hello")]
            case FetchUsage():
                return USAGE
        raise AssertionError(command)


@pytest.mark.parametrize(
    "end", ["leave", "interrupt", "silence", "break", "left and broke", "left and hurried"]
)
@pytest.mark.parametrize("named_at", [2, 4, 8, 1000])
@pytest.mark.parametrize("begins_at", [1, 3, 5])
def test_no_run_is_left_whenever_it_begins_and_is_named(begins_at: int, named_at: int, end: str) -> None:
    proxy = house(Config(first_item_timeout=20.0, background=Background.NEVER))
    client = Client(chat(headers=FIRST if end == "interrupt" else {}), proxy)
    books = Books(client, begins_at, named_at)
    books.was_asked = True
    deeds: dict[str, Callable[[], object]] = {
        "leave": lambda: client.leave(now=103.0),
        "interrupt": lambda: client.cycle.shut_down(103.0, 100.0),
        "silence": lambda: client.fail(Failure.SILENT),
        "break": lambda: client.fail(Failure.BROKEN),
        "left and broke": lambda: client.leave(now=103.0).fail(Failure.BROKEN),
        "left and hurried": lambda: client.leave(now=103.0).cycle.hurry(103.0),
    }
    deeds[end]()
    client.pump()
    books.go()
    assert books.status in ("cancelled", "completed")
    assert [type(command) for command in client.commands].count(OpenStream) == 1
    assert client.body.count(b"Hello") <= 1
    if end in ("silence", "break"):
        assert client.status == 200
    elif end == "interrupt":
        assert client.status == 503
    following = Client(chat(content="next"), proxy, token="second12", now=150.0)
    assert not following.waits, "the thread is free"


# --- What a process that died has left


def sweep(runs: list[Any], *, died: str = "") -> list[str]:
    cycle = Proxy().sweep(token=TOKEN, created=1000, now=0.0, has_died=lambda owner: owner == died)
    client = Client(cycle)
    assert client.commands == [FindRuns(active=True)]
    client.answer(runs)
    while isinstance(client.commands[-1], CancelRun):
        client.answer({})
        if len(client.commands) > 20:
            break
    return [command.run_id for command in client.commands if isinstance(command, CancelRun)]


def test_runs_of_a_process_that_died_are_ended_and_no_others() -> None:
    def mark(owner: str, until: int) -> str:
        return RunMark(token="t-1", owner=owner, until=until).text

    ended = sweep(
        [
            listed(mark("mine", 2000), run_id="run-1"),
            listed(mark("another", 2000), run_id="run-2"),
            listed(mark("another", 999), run_id="run-3"),
            listed("message", run_id="run-4"),
            listed(None, run_id="run-5"),
        ],
        died="mine",
    )
    assert ended == ["run-1", "run-3"]


def test_a_letta_without_such_a_list_is_swept_all_the_same() -> None:
    client = Client(Proxy().sweep(token=TOKEN, created=1000, now=0.0))
    client.answer({"detail": "Not Found"}, 404)
    assert len(client.commands) == 2
