"""No I/O, no clock, no randomness in the core. Imports between packages are checked by `make lint`."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sansio_letta
from sansio_letta.dialects.chat_completions.request import FIELDS
from sansio_letta.upstreams.rest import letta

PACKAGE = Path(sansio_letta.__file__ or "").parent
MODULES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))
}

#: All that the core may import from elsewhere; what is missing here (socket, time, random...) is the point.
OUTSIDE = {
    "attrs",
    "base64",
    "bisect",
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


def outside(tree: ast.Module) -> Iterator[str]:
    """What a module imports from elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


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
    assert not set(outside(MODULES["__init__.py"]))
    assert set(sansio_letta.__all__) <= vars(sansio_letta).keys()
    assert sorted(sansio_letta.__all__) == sorted(set(sansio_letta.__all__))


# --- Neutral modules ------------------------------------------------------------------------------------------

#: The turn and the dialects speak of no upstream's wire.
NEUTRAL = [module for module in MODULES if module.startswith(("turn/", "dialects/"))]
#: Letta's messages, its stop reasons and error codes.
LETTA_WORDS = {*letta.MESSAGE_TYPES} - {"ping"} | {"end_turn", "requires_approval", "PENDING_APPROVAL"}


def compared(tree: ast.Module) -> Iterator[str]:
    """What a module compares: names and attributes, without what they are of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield ast.unparse(side).rpartition(".")[2]


@pytest.mark.parametrize("module", NEUTRAL)
def test_the_turn_and_the_dialects_contain_nothing_of_lettas_wire(module: str) -> None:
    tree = MODULES[module]
    assert not [text for text in words(tree) if "/v1/" in text]
    assert not LETTA_WORDS & {word for text in words(tree) for word in text.split()}
    assert "status" not in compared(tree)


def test_the_wire_is_found_where_it_belongs() -> None:
    rest = [MODULES[module] for module in MODULES if module.startswith("upstreams/rest/")]
    assert any("/v1/" in text for tree in rest for text in words(tree))
    assert {text for tree in rest for text in words(tree)} >= LETTA_WORDS
    assert any("status" in compared(tree) for tree in rest)


# --- Transports -----------------------------------------------------------------------------------------------

TRANSPORTS = PACKAGE.parent / "transports"

#: Package -> what it may import beside the standard library and itself.
TRANSPORT_TABLE = {
    "letta_recordings": {"attrs", "orjson", "rich", "sansio_letta"},
    "letta_inprocess": {"anyio", "attrs", "letta_recordings", "sansio_letta"},
    "letta_httpx": {"httpx", "letta_inprocess", "letta_recordings"},
    "letta_httpx2": {"httpx2", "letta_inprocess", "letta_recordings"},
}


@pytest.mark.parametrize("package", TRANSPORT_TABLE)
def test_a_transport_imports_its_own_library_alone(package: str) -> None:
    trees = [ast.parse(path.read_text()) for path in sorted((TRANSPORTS / package).glob("*.py"))]
    imported = {name.partition(".")[0] for tree in trees for name in outside(tree)}
    assert imported - sys.stdlib_module_names == TRANSPORT_TABLE[package]


# --- Sizes ----------------------------------------------------------------------------------------------------

MAX_MODULE_SIZE = 500
MAX_CLASS_SIZE = 350
MAX_METHOD_COUNT = 25

#: Still to be taken apart.
LARGE: set[str] = set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_and_its_classes_are_small(module: str) -> None:
    tree = MODULES[module]
    size = len((PACKAGE / module).read_text().splitlines())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    large = [node.name for node in classes if (node.end_lineno or 0) - node.lineno >= MAX_CLASS_SIZE]
    many = [
        node.name
        for node in classes
        if sum(isinstance(item, ast.FunctionDef) for item in node.body) > MAX_METHOD_COUNT
    ]
    is_large = size > MAX_MODULE_SIZE or bool(large or many)
    assert is_large == (module in LARGE), (size, large, many)


# --- Fields of a client's request -----------------------------------------------------------------------------

#: Fields that Letta's API has by the same names, and ordinary words: they are looked for in errors alone.
SHARED = {"model", "messages", "stream", "tools", "metadata", "stop", "n", "temperature", "user", "store"}
ORDINARY = {"audio", "functions", "moderation", "seed"}
PATH = re.compile(
    rf"`(?:{'|'.join(FIELDS)})\b"
    r"|\b(?:messages|tools|metadata|function)[.\[]"
    rf"|\b(?:{'|'.join(FIELDS.keys() - SHARED - ORDINARY)})\b"
)


def words(tree: ast.AST) -> Iterator[str]:
    """The string literals in a tree, docstrings left out."""
    nodes = list(ast.walk(tree))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


ELSEWHERE = [name for name in MODULES if not name.startswith("dialects/")]


@pytest.mark.parametrize("module", ELSEWHERE)
def test_only_a_dialect_knows_the_paths_of_a_request_s_fields(module: str) -> None:
    # It reads recorded bodies.
    known = {"stream_options"} if module == "recording/inspect.py" else set[str]()
    assert {word for word in words(MODULES[module]) if PATH.search(word)} <= known


@pytest.mark.parametrize("module", ELSEWHERE)
def test_elsewhere_an_error_names_a_header_or_a_field_in_no_dialect(module: str) -> None:
    nodes = ast.walk(MODULES[module])
    named = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "param"]
    assert all("-" in word for value in named for word in words(value))


def test_the_paths_are_found() -> None:
    code = """raise RequestError(f"`tools[{index}].function` is bad.", param="messages"); x = "tool_choice" """
    tree = ast.parse(code)
    assert {word for word in words(tree) if PATH.search(word)} == {"`tools[", "tool_choice"}
