"""The marks by which a thread tells what the agent has heard."""

from sansio_letta.turn.ledger import ROOT, digest, root
from sansio_letta.turn.request import Image, Mark, Text


def test_what_two_clients_say_is_marked_differently() -> None:
    assert root("alice") != root("bob") != ROOT
    assert root("") == ROOT


def test_a_mark_is_read_back_and_holds_no_text() -> None:
    mark = Mark(digest("user", "secret"), ROOT)
    assert Mark.read(mark.text) == mark
    assert Mark.read(f"{mark.text}-{'r' * 64}-12") == mark
    assert "secret" not in mark.text
    for text in (None, "", "lp1-x-y", mark.text.upper(), f"{mark.text} ", mark.text.replace("lp1", "lp2")):
        assert Mark.read(text) is None


def test_a_text_and_its_parts_are_the_same_message() -> None:
    assert digest("user", "x") == digest("user", (Text(text="x"),))
    assert digest("user", "x\ny") == digest("user", (Text(text="x"), Text(text="y")))
    assert digest("user", "x") != digest("system", "x")
    image = Image(url="https://x/")
    assert digest("user", (Text(text="x"), image)) != digest("user", "x")
    assert digest("user", (Text(text="x"), image, Text(text="y"))) != digest("user", (Text(text="x\ny"), image))
