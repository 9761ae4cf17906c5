"""No I/O, no clock, no randomness in the core. Which package imports which is import-linter's: `make lint`."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sansio_letta

PACKAGE = Path(sansio_letta.__file__ or "").parent
MODULES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))
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
