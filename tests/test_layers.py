"""The plan of the house: which module knows which; and no I/O, no clock, no chance in the core."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sansio_letta

PACKAGE = Path(sansio_letta.__file__ or "").parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py"))}

#: Module -> the modules of the package that it imports. From the ground up.
TABLE = {
    "_signal": "",
    "_convert": "",
    "errors": "",
    "config": "",
    "schemas": "errors",
    "json_in_text": "",
    "wishes": "json_in_text schemas",
    "sse": "_signal errors",
    "letta": "_convert errors",
    "chat": "sse",
    "chat_body": "_convert errors",
    "chat_fields": "_convert errors",
    "chat_pictures": "",
    "chat_messages": "_convert chat_fields chat_pictures config errors",
    "chat_schemas": "_convert chat_fields errors",
    "chat_tools": "_convert chat_fields chat_schemas config errors",
    "chat_responses": "_convert errors",
    "chat_request": "chat_body chat_fields chat_messages chat_responses chat_schemas chat_tools config errors",
    "routing": "errors",
    "events": "errors letta",
    "exchange": "errors events letta",
    "access": "errors exchange letta routing",
    "origins": "errors exchange routing",
    "agents": "access chat letta",
    "ollama": "_convert agents errors letta",
    "approvals": "letta",
    "policies": "config errors exchange",
    "recording": "_convert config errors policies",
    "message_reader": "_signal letta sse",
    "ephemeral": "errors letta",
    "spoken": "",
    "bridge": "approvals config ephemeral errors events letta spoken",
    "stream": "approvals bridge ephemeral errors events letta",
    "held": "events stream wishes",
    "trimming": "events",
    "places": "errors",
    "asking": "errors events exchange message_reader",
    "run_lookup": "asking errors events exchange letta",
    "recovery": "asking errors events exchange letta run_lookup stream",
    "phases": "",
    "threads": "errors events exchange letta",
    "plan": "approvals config letta threads wishes",
    "tasks": "chat_request",
    "speakers": "",
    "destination": "access errors events exchange letta threads",
    "lending": "ephemeral errors events exchange letta run_lookup",
    "opening": "bridge config destination errors events letta plan wishes",
    "toolkit": "config ephemeral errors lending letta",
    "runs": "bridge events held letta recovery run_lookup stream",
    "turn": (
        "_signal access approvals asking bridge config destination ephemeral errors events exchange held "
        "lending letta opening phases places plan recovery run_lookup runs stream threads toolkit trimming "
        "wishes"
    ),
    "thread_memory": "events letta opening plan threads turn",
    "planning": (
        "_convert approvals chat_request config errors letta plan schemas speakers tasks threads wishes"
    ),
    "chat_writer": "chat config errors events letta sse",
    "tool_views": "chat_writer config events",
    "inquiry": (
        "_signal access agents chat config errors events exchange lending letta ollama run_lookup threads"
    ),
    "repeats": "_signal access errors events exchange places recovery turn",
    "cycle": (
        "_signal access agents chat_writer config errors events exchange inquiry lending letta places repeats "
        "thread_memory turn"
    ),
    "proxy": (
        "access chat_request chat_writer config cycle errors events inquiry letta ollama places planning "
        "policies repeats routing threads tool_views turn"
    ),
    "redact": "_signal errors letta recording sse",
    "recorder": "_signal cycle errors events exchange recording redact",
    "remembered": "errors events exchange letta recording",
    "replay_client": (
        "_signal chat_request config cycle errors events plan planning proxy recording redact remembered "
        "sse threads"
    ),
    "replay": (
        "_signal chat_writer config cycle errors events letta plan recording remembered replay_client sse "
        "tool_views turn"
    ),
    "replay_views": "chat_writer config events recording replay",
    "gist": "errors events letta",
    "inspected": "errors events letta phases recording stream",
    "inspection": (
        "_signal chat_request chat_writer config errors events gist inspected letta phases planning recording "
        "remembered replay replay_client routing sse tool_views turn"
    ),
}

#: All that the core may import from elsewhere; what is missing here (socket, time, random...) is the point.
OUTSIDE = {
    "attrs",
    "base64",
    "cattrs",
    "cattrs.gen",
    "collections",
    "collections.abc",
    "datetime",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "ipaddress",
    "jsonschema",
    "jsonschema.exceptions",
    "jsonschema.validators",
    "math",
    "operator",
    "orjson",
    "re",
    "referencing",
    "referencing.exceptions",
    "referencing.jsonschema",
    "string",
    "typing",
    "urllib.parse",
}

#: Ways around an import: files, the terminal, code made at run time, and the clock of `datetime`.
FORBIDDEN = {"open", "print", "input", "breakpoint", "exec", "eval", "compile", "__import__"}
CLOCKS = {"datetime.now", "datetime.today", "datetime.utcnow", "date.today"}


def inside(tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports."""
    return {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for name in ([node.module] if node.module else [alias.name for alias in node.names])
    }


def outside(tree: ast.Module) -> Iterator[str]:
    """What a module imports from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def test_every_module_is_in_the_table() -> None:
    assert TABLE.keys() == MODULES.keys() - {"__init__"}


@pytest.mark.parametrize("module", TABLE)
def test_a_module_imports_what_the_table_says(module: str) -> None:
    assert inside(MODULES[module]) == set(TABLE[module].split())


def test_nobody_imports_what_stands_above_it() -> None:
    order = list(TABLE)
    for module, imports in TABLE.items():
        assert all(order.index(name) < order.index(module) for name in imports.split()), module


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_little_from_outside(module: str) -> None:
    assert set(outside(MODULES[module])) <= OUTSIDE


def test_nothing_is_allowed_that_nobody_imports() -> None:
    assert {name for tree in MODULES.values() for name in outside(tree)} == OUTSIDE


@pytest.mark.parametrize("module", MODULES)
def test_a_module_touches_neither_files_nor_clocks(module: str) -> None:
    nodes = list(ast.walk(MODULES[module]))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    clocks = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    assert not names & FORBIDDEN
    assert not clocks & CLOCKS


def test_the_package_only_hands_on_names() -> None:
    assert not set(outside(MODULES["__init__"]))
    assert set(sansio_letta.__all__) <= vars(sansio_letta).keys()
    assert sorted(sansio_letta.__all__) == sorted(set(sansio_letta.__all__))


# --- Transports -----------------------------------------------------------------------------------------------

TRANSPORTS = PACKAGE.parent / "transports"

#: Package -> what it may import beside the standard library and itself.
TRANSPORT_TABLE = {
    "letta_inprocess": {"anyio", "attrs", "sansio_letta"},
    "letta_httpx": {"httpx", "letta_inprocess"},
    "letta_httpx2": {"httpx2", "letta_inprocess"},
}


@pytest.mark.parametrize("package", TRANSPORT_TABLE)
def test_a_transport_imports_its_own_library_alone(package: str) -> None:
    trees = [ast.parse(path.read_text()) for path in sorted((TRANSPORTS / package).glob("*.py"))]
    imported = {name.partition(".")[0] for tree in trees for name in outside(tree)}
    assert imported - sys.stdlib_module_names == TRANSPORT_TABLE[package]
