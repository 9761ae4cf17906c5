"""A recording in the terminal and as a page."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from typing import Any

import orjson
import pytest
from attrs import evolve
from rich.console import Console

from letta_recordings.page import page
from letta_recordings.terminal import show
from letta_recordings.words import gap_text, printable, seconds, words
from recordings import SCENARIOS, recording
from sansio_letta.recording.format import RecordedData, RecordedState, Recording
from sansio_letta.recording.reader import read_recording

#: What a recording may hold to break out of a page or to move a terminal's cursor.
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]></style><img src=x onerror=alert(1)>",
    "[bold]@DATA@ @TITLE@ ${alert(1)} `x` \\u003c",
    "\x1b[2J\x1b]0;owned\x07 \u2028 \u2029 \u202e \x00 &amp; \" '",
)


def hostile(text: str) -> Recording:
    """A recording that says this in every place where it can say something."""
    message = {"message_type": text, "id": text, "content": text, text: text}
    said = {"message_type": "assistant_message", "id": text, "content": text}
    body = b"".join(b"data: %b\n\n" % orjson.dumps(item) for item in (message, said)) + text.encode()
    lines: list[dict[str, Any]] = [
        {"v": 1, "kind": "letta-v1", "server": text, "scenario": text, "note": text},
        {"x": 1, "t": 0, "dir": "request", "method": text, "path": text, "json": {text: [text]}},
        {"x": 1, "t": 1, "dir": "response", "status": 200, "headers": [[text, text]]},
        {"x": 1, "t": 1, "dir": "failed", "failure": text, "reason": text},
        {"x": 2, "t": 2, "dir": "request", "method": "POST", "path": f"/{text}/messages/stream",
         "json": {"messages": [{"role": text, "content": text}]}},
        {"x": 2, "t": 3, "dir": "response", "status": 200, "headers": [["content-type", "text/event-stream"]]},
        {"x": 2, "t": 3, "dir": "data", "b64": base64.b64encode(body).decode()},
        {"x": 2, "t": 4, "dir": "failed", "failure": "broken", "reason": text},
    ]  # fmt: skip
    return read_recording(b"".join(orjson.dumps(line) + b"\n" for line in lines))


# --- In the terminal ------------------------------------------------------------------------------------------


def shown(found: Recording, *, width: int = 120, encoding: str = "utf-8") -> str:
    """What is printed where there is no terminal, without the blanks at the lines' ends."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    show(found, Console(file=file, width=width))
    file.flush()
    return "".join(f"{line.rstrip()}\n" for line in raw.getvalue().decode(encoding).split("\n")).rstrip("\n")


TOOL_TURN = """\
client_tool  Letta 0.16.7, recording version 3, 2 turns, 1.37 s
One client tool call; the result is returned; the agent answers.

turn 1  tool_calls, 659 ms, 14 chunks, the first after 335 ms, 1 call, tokens 100 in (10 cached), 20 out (5 reasoning)
 time     gap        from Letta                                  what became of it                  turn, run
0.000                POST                                                                           sending, waiting
                     /v1/agents/agent-c52d0716/messages/stream
                     user: think I need the weather.⏎call
                     get_weather {"city": "Paris", "units": "C"}
0.232 +232 ms ██████ 200 text/event-stream; charset=utf-8                                           streaming, waiting
0.232 +0.1 ms        ping run-115dd367
0.335 +103 ms ██▋    reasoning_message ×4 I need the weather.    turn started the answer begins     streaming, thinking
                                                                 reasoning delta ×4 I need the
                                                                 weather.
0.337 +0.6 ms        approval_request_message ×7 get_weather     call started get_weather           streaming, calling
                     {"city": "Paris", "units": "C"}             call_c8b96a27bb2b40b4b26d
                                                                 call arguments ×6 {"city":
                                                                 "Paris", "units": "C"}
0.482 +136 ms ███▌   stop_reason requires_approval                                                  streaming, stopped
0.483 +1.7 ms        usage_statistics 100 in, 20 out
0.483 +0.2 ms        [DONE]                                      turn finished tool_calls, 100 in   done, done
                                                                 (10 cached), 20 out (5 reasoning)
0.659 +176 ms ████▌  end
"""  # noqa: E501 - as wide as the terminal


def test_a_tool_call_in_the_terminal() -> None:
    assert shown(recording("client_tool")).startswith(TOOL_TURN)


def test_a_narrow_terminal_shows_no_states() -> None:
    text = shown(recording("client_tool"), width=70)
    assert "turn, run" not in text
    assert "sending" not in text
    assert all(len(line) <= 70 for line in text.splitlines())


def test_a_terminal_without_unicode() -> None:
    text = shown(recording("unicode"), encoding="ascii")
    assert "assistant_message x13" in text
    assert "\\u4f60\\u597d" in text
    assert "end\\nsecond" in text


def test_colours_are_for_terminals() -> None:
    file = io.StringIO()
    show(
        recording("error_llm_500"), Console(file=file, width=120, force_terminal=True, color_system="standard")
    )
    assert "\x1b[1;31mturn failed" in file.getvalue()
    assert "\x1b" not in shown(recording("error_llm_500"))


def test_what_a_reader_must_know() -> None:
    assert shown(recording("error_llm_500")).endswith("LLM request. Kept by Letta: nothing.")
    assert "turn 2  429 ms\n" in shown(recording("pending_conflict"))
    assert "The recording has no response to POST /v1/agents/agent-ac887c08" in shown(
        recording("pending_conflict")
    )
    assert "outside of a turn  68 ms" in shown(recording("agents"))
    whole = recording("text")
    cut = evolve(whole, cut_line=9, head=evolve(whole.head, note=""))
    assert shown(cut).splitlines()[1] == ""
    assert shown(cut).endswith("Line 9 was not written to its end and is left out.")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_hostile_recording_in_the_terminal(text: str, encoding: str) -> None:
    told = shown(hostile(text), encoding=encoding)
    assert all(char.isprintable() or char == "\n" for char in told)
    assert printable(text[:8]).encode("ascii", "backslashreplace").decode() in told


def test_figures_in_words() -> None:
    assert [seconds(value) for value in (0.0, 0.0123, 0.999, 1.0, 61.25)] == [
        "0 ms",
        "12 ms",
        "999 ms",
        "1.00 s",
        "61.25 s",
    ]
    assert [gap_text(value) for value in (0.0, 0.0004, 0.0123, 1.5)] == ["", "+0.4 ms", "+12 ms", "+1.50 s"]
    assert words("CallArguments") == "call arguments"
    assert printable("a\tb\nc\x1b\u2028ä") == "a b⏎c\\x1b\\u2028ä"


# --- As a page ------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """What a browser would see in a page: its elements with their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        elif tag == "style":
            self.styles.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data


def data(found: Recording) -> Any:
    """The data in a page."""
    return orjson.loads(Elements(page(found)).scripts[0])


def texts(value: Any) -> list[str]:
    """All strings in some JSON."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for item in value.values() for text in texts(item)]
        case list():
            return [text for item in value for text in texts(item)]
    return []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_page_holds_all_that_was_recorded(scenario: str) -> None:
    whole, found = recording(scenario), data(recording(scenario))
    assert (found["scenario"], found["note"]) == (scenario, whole.head.note)
    held = "\n".join(texts(found))
    for exchange in whole.exchanges:
        for line in exchange.body.splitlines():
            payload = line.removeprefix(b"data: ")
            if payload.startswith(b"{"):
                assert orjson.dumps(orjson.loads(payload), option=orjson.OPT_INDENT_2).decode() in held


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_a_page_is_made_of_does_not_depend_on_the_recording(scenario: str) -> None:
    elements, empty = (
        Elements(page(found)) for found in (recording(scenario), evolve(recording("text"), exchanges=()))
    )
    assert elements.found == empty.found
    assert elements.scripts[1:] == empty.scripts[1:]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_recording_as_a_page(text: str) -> None:
    whole = page(hostile(text))
    elements, expected = Elements(whole), Elements(page(recording("text")))
    assert elements.found == expected.found
    assert (elements.scripts[1:], elements.styles) == (expected.scripts[1:], expected.styles)
    found = orjson.loads(elements.scripts[0])
    assert (found["scenario"], found["note"]) == (text, text)
    assert found["passages"][1]["items"][2]["text"] == text
    assert not set("<>&\u2028\u2029") & set(elements.scripts[0])


def test_a_page_allows_its_own_script_and_nothing_else() -> None:
    elements = Elements(page(recording("text")))
    [policy] = [attrs["content"] for _, attrs in elements.found if "http-equiv" in attrs]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'{_hash(elements.styles[0])}'",
        "script-src": f"'{_hash(elements.scripts[1])}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert len(elements.scripts) == 2
    assert len(elements.styles) == 1


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_a_page_needs_no_network_and_makes_no_html_of_texts() -> None:
    elements = Elements(page(recording("text")))
    own = "".join([*elements.scripts[1:], *elements.styles, *(str(item) for item in elements.found)])
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(", own)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", own)
    assert not any(
        name.startswith("on") or name in ("src", "href") for _, attrs in elements.found for name in attrs
    )


def test_a_page_of_a_tool_round_trip() -> None:
    found = data(recording("client_tool"))
    assert dict(item[:2] for item in found["stats"]) == {
        "Turns": "2",
        "Duration": "1.37 s",
        "First chunk": "335 ms, 388 ms",
        "Chunks": "31",
        "Tokens": "200 in, 40 out",
        "Calls": "1",
        "Finish": "tool_calls, stop",
        "Errors": "none",
    }
    first, second = found["passages"]
    assert (first["title"], first["result"], first["failed"], first["folded"]) == (
        "Turn 1",
        "tool_calls",
        False,
        False,
    )
    assert first["figures"] == "659 ms, 14 chunks, the first after 335 ms"
    assert second["asked"] == "tool: 18 C, sunny"
    assert [label for _, label in first["axis"]] == ["0", "200 ms", "400 ms", "600 ms"]
    assert first["waits"] == [[0.0002, 0.2322]]
    assert first["bodies"] == [[0.2322, 0.659]]
    tags = [item["tags"] for item in first["items"]]
    assert tags[:5] == [["command", "http"], ["http"], ["ping"], ["message", "chunk"], ["message", "chunk"]]
    reasoning = first["items"][3]
    assert (reasoning["text"], reasoning["tone"], reasoning["rate"]) == (
        "I need the weather.",
        "thought",
        "in 2 ms",
    )
    assert [len(piece["outs"]) for piece in reasoning["rows"]] == [2, 1, 1, 1]
    pieces = [(piece["before"], piece["t"]) for piece in reasoning["rows"]]
    assert pieces == [(0.2323, 0.335), (0.335, 0.3352), (0.3352, 0.3362), (0.3362, 0.3366)]
    assert reasoning["rows"][0]["outs"][0]["wrote"] == "1 chunk to the client"
    assert first["items"][-2]["rows"][0]["outs"][0]["wrote"] == "2 chunks to the client"
    assert (first["items"][1]["long"], first["items"][3]["long"]) == (True, True)
    assert [item["heard"] for item in first["items"][-2:]] == [True, False]


def test_a_page_of_many_fragments_holds_them_as_one_row() -> None:
    [passage] = data(recording("long"))["passages"]
    [words] = [item for item in passage["items"] if item["name"] == "assistant_message"]
    assert len(words["rows"]) == 600
    assert re.fullmatch(r"in \d+ ms, [\d,]+/s", words["rate"])
    assert words["text"].endswith(" w598 w599")


def test_a_page_of_minutes() -> None:
    [passage] = data(recording("step_streaming"))["passages"]
    assert [label for _, label in passage["axis"]] == ["0", "20 s", "40 s", "60 s"]


def test_a_page_of_a_failure() -> None:
    found = data(recording("error_llm_500"))
    assert found["stats"][-1] == ["Errors", "502 upstream_error", True]
    [passage] = found["passages"]
    assert (passage["failed"], passage["first"]) == (True, None)
    assert [[note.endswith("Kept by Letta: nothing."), bad] for note, bad in passage["notes"]] == [[True, True]]
    [error] = [item for item in passage["items"] if "error" in item["tags"]]
    assert (error["name"], error["tone"]) == ("error_message", "error")


def test_a_page_of_a_client_that_left_and_of_what_no_turn_asked() -> None:
    found = data(recording("disconnect"))
    turn, other, _ = found["passages"]
    assert (turn["result"], other["title"], other["folded"]) == (
        "client disconnected",
        "Outside of a turn",
        True,
    )
    assert other["asked"] == "GET /v1/runs/run-4ae7cdce"
    cancelled = next(item for item in turn["items"] if "command" in item["tags"] and not item["asks"])
    assert cancelled["rows"][0]["outs"][0]["wrote"] == "asked of Letta"


def test_a_page_of_a_recording_with_a_client() -> None:
    whole = recording("text")
    [exchange] = whole.exchanges
    request = evolve(
        exchange.request, path="/v1/chat/completions", json={"model": "Milo"}, headers=(("a", "b"),)
    )
    client = evolve(exchange, x=0, request=request, data=(RecordedData(t=1.0, data=b"no"),))
    known = RecordedState(agent=exchange.request.agent)
    head = evolve(whole.head, text="hash", server="sansio-letta/0.1.0", initial=known)
    found = data(evolve(whole, head=head, client=client, cut_line=7))
    assert found["meta"].endswith(
        "recorded by sansio-letta/0.1.0, recording version 3, texts: hash, cut off in line 7"
    )
    assert found["how"].endswith("as they were recorded.")
    [passage] = found["passages"]
    note = "Today the client would get a different response: see letta-proxy diff."
    assert passage["notes"] == [[note, False]]
    assert (passage["items"][0]["name"], passage["items"][0]["tone"]) == (
        "client: POST /v1/chat/completions",
        "client",
    )


def test_a_page_of_many_failures_names_a_few() -> None:
    whole = recording("error_llm_500")
    [exchange] = whole.exchanges
    many = tuple(evolve(exchange, x=number) for number in range(1, 6))
    found = data(evolve(whole, exchanges=many))
    assert found["stats"][-1][1] == ", ".join(["502 upstream_error"] * 3) + " and 2 more"


def test_times_that_are_odd() -> None:
    whole = recording("text")
    [exchange] = whole.exchanges
    endless = evolve(exchange, end_t=1e308, t=-1e308)
    for found in (evolve(exchange, t=0.6512, data=()), evolve(exchange, t=5.0), endless):
        assert data(evolve(whole, exchanges=(found,)))["passages"]
        assert shown(evolve(whole, exchanges=(found,)))
