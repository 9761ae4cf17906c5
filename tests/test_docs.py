"""The docs agree with the code: links, files, code, options, tables, diagrams. `make docs` builds the site."""

import ast
import dataclasses
import importlib
import re
import secrets
import shlex
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import get_args
from xml.etree import ElementTree

import attrs
import pytest

import letta_httpx
import letta_httpx2
import letta_server
import sansio_letta
from letta_recordings.expectations import EXPECTATIONS
from letta_server.access import keys as keys_module
from letta_server.access.keys import read_keys
from letta_server.cli.app import app
from letta_server.observe.metrics import METRICS
from letta_server.settings.errors import SettingsError
from sansio_letta import errors
from sansio_letta.dialects.chat_completions.request import FIELDS
from sansio_letta.dialects.fields import Treatment
from sansio_letta.errors import Failure
from sansio_letta.proxy import policies
from sansio_letta.recording import format as recording
from sansio_letta.recording import reader
from sansio_letta.turn import events, phases
from sansio_letta.upstreams.rest import commands as rest_commands
from sansio_letta.upstreams.rest import letta
from sansio_letta.upstreams.rest import run as stream
from sansio_letta.upstreams.rest.agents import to_agent
from sansio_letta.upstreams.rest.offered_tools import OfferedTools
from sansio_letta.upstreams.rest.tool_attachment import CreatedTools

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

#: What a page may name in code: a file or a folder of the repository.
FOLDERS = ("sansio_letta", "transports", "examples", "tests", "fixtures", "docs")


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


def load(module: str) -> ModuleType:
    """One of the modules that make parts of the pages; they stand beside them."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(DOCS))


diagrams, tables, hook = load("diagrams"), load("tables"), load("hook")


def blocks(page: Path, language: str) -> Iterator[str]:
    """The code blocks of a language, without the indentation of what they stand in."""
    for found in re.finditer(
        rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        yield re.sub(f"^{found[1]}", "", found[2], flags=re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """As Python-Markdown makes one of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def anchors(page: Path) -> set[str]:
    return {slug(found[1]) for found in re.finditer(r"^#+ (.+)$", prose(page), re.MULTILINE)}


def fixed(text: str) -> list[str]:
    """What a page sets in code within a line."""
    return re.findall(r"`([^`\n]+)`", text)


# --- Links, files, words --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    for text in fixed(prose(page)):
        if text.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
            assert list(ROOT.glob(text)), text


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert set(re.findall(r"[\w/-]+\.md", navigation)) == {name(page) for page in PAGES}


def test_nothing_comes_from_another_host() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in settings
    assert "//" not in settings.replace("# ", "")
    for asset in (DOCS / "assets").iterdir():
        assert not re.search(r"https?://|@import", asset.read_text(encoding="utf-8")), asset


# --- Code and commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles_and_imports_what_there_is(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.partition(".")[0] not in (
                    "sansio_letta",
                    "letta_server",
                    "letta_httpx",
                    "letta_httpx2",
                ):
                    continue
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_the_replay_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [code] = [code for code in blocks(DOCS / "recording.md", "python") if "read_recording" in code]
    exec(compile(code, "recording.md", "exec"), {})


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Each call of `letta-proxy` in the docs: the page and the words after it."""
    for page in PAGES:
        for code in blocks(page, "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                words = words[: words.index(">>")] if ">>" in words else words
                if "letta-proxy" in words:
                    yield name(page), words[words.index("letta-proxy") + 1 :]
        for text in fixed(prose(page)):
            if text.startswith("letta-proxy "):
                yield name(page), shlex.split(text)[1:]


@pytest.mark.parametrize(("page", "words"), list(command_lines()))
def test_commands_take_their_options(page: str, words: list[str]) -> None:
    command, *rest = words
    assert {word for word in rest if word.startswith("--")} <= tables.option_names(command)


def test_commands_of_recordings_and_servers_can_be_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole lines, values and all; nothing is run. A file of settings is read, the one of the docs."""
    [settings] = [text for text in blocks(DOCS / "access.md", "toml") if "letta-url" in text]
    (tmp_path / "proxy.toml").write_text(with_keys(settings), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for _, words in command_lines():
        if len(words) > 1:
            app.parse_args(words, exit_on_error=False, print_error=False)


def test_options_that_are_named_exist() -> None:
    known = set[str]().union(*(tables.option_names(command) for command in tables.COMMANDS))
    foreign = {"--auto", "--config", "--stop-timeout", "--title"}
    foreign |= {"--message-file", "--yes-always", "--no-check-update", "--no-analytics"}
    for page in PAGES:
        for text in fixed(prose(page)):
            assert not re.fullmatch(r"--[a-z-]+", text) or text in known | foreign, (name(page), text)


# --- What is generated ----------------------------------------------------------------------------------------


def test_all_that_is_generated_is_used_and_all_that_is_used_is_generated() -> None:
    used = {found[2] for page in PAGES for found in hook.MARKER.finditer(page.read_text(encoding="utf-8"))}
    assert used == hook.GENERATED.keys()


@pytest.mark.parametrize("part", sorted(hook.GENERATED))
def test_a_generated_part_stands_in_the_page(part: str) -> None:
    made = hook.on_page_markdown(f"before\n\n<!-- generated: {part} -->\n\nafter", page=None)
    assert "generated:" not in made
    assert hook.GENERATED[part]() in made


def test_the_hook_keeps_the_indentation_and_refuses_what_it_does_not_know() -> None:
    made = hook.expand("    <!-- generated: turn-transitions -->")
    assert all(line.startswith("    |") for line in made.splitlines())
    with pytest.raises(KeyError):
        hook.expand("<!-- generated: no-such-part -->")


@pytest.mark.parametrize("machine", ["turn_machine", "run_machine"])
def test_a_drawing_shows_all_states_and_transitions(machine: str) -> None:
    drawn = getattr(diagrams, machine)()
    states, transitions, _ = read_drawing(diagrams.draw(drawn))
    assert states == set(drawn.table)
    assert transitions == sorted(drawn.transitions)
    assert drawn.places.keys() == drawn.table.keys()  # none was put where there was room


def test_the_drawings_are_of_the_tables() -> None:
    assert diagrams.turn_machine().transitions == {
        (phase.name, why, then.name) for phase, row in phases.TRANSITIONS.items() for then, why in row.items()
    }
    assert diagrams.run_machine().transitions == {
        (state.name, diagrams.input_name(given), then.name)
        for state, row in stream.TRANSITIONS.items()
        for given, then in row.items()
    }


def test_a_changed_table_changes_the_drawing() -> None:
    machine = diagrams.turn_machine()
    before = diagrams.draw(machine)
    table = {state: dict(row) for state, row in machine.table.items()}
    table["READY"]["CANCEL"] = "RESTING"
    table["RESTING"] = {"SEND": "SENDING"}
    changed = dataclasses.replace(machine, table=table)
    drawn = diagrams.draw(changed)
    states, transitions, labels = read_drawing(drawn)
    assert "RESTING" in states
    assert transitions == sorted(changed.transitions)
    assert {"CANCEL", "RESTING"} <= labels
    del table["LOOKING"]["failed"]  # no longer common to all in the frame
    drawn_again = diagrams.draw(changed)
    assert read_drawing(drawn_again)[1] == sorted(changed.transitions)
    assert len({before, drawn, drawn_again}) == 3


def read_drawing(figure: str) -> tuple[set[str], list[tuple[str, ...]], set[str]]:
    """States, transitions and all words of a drawing."""
    assert "\n\n" not in figure  # Markdown would take the rest for text
    tree = ElementTree.fromstring(figure)
    states = {state for item in tree.iter() if (state := item.get("data-state"))}
    transitions = [
        tuple(transition.split(" > "))
        for item in tree.iter()
        for transition in (item.get("data-transitions") or "").split(";")
        if transition
    ]
    words = {(item.text or "").strip() for item in tree.iter() if item.tag in ("text", "tspan")}
    assert words >= states | {transition[1] for transition in transitions}
    return states, sorted(transitions), words


def test_a_table_of_transitions_says_all() -> None:
    for machine in (diagrams.turn_machine(), diagrams.run_machine()):
        rows = [fixed(line) for line in diagrams.transition_table(machine).splitlines()[2:]]
        assert {(row[0], given, row[-1]) for row in rows for given in row[1:-1]} == machine.transitions


def test_every_field_of_a_request_stands_in_one_table() -> None:
    honoured = re.findall(r"^\| `(\w+)`", tables.honoured_fields(), re.MULTILINE)
    refused = re.findall(r"^\| `(\w+)`", tables.refused_fields(), re.MULTILINE)
    noticed, quiet = fixed(tables.noticed_fields()), fixed(tables.quiet_fields())
    assert sorted(honoured + refused + noticed + quiet) == sorted(FIELDS)
    assert tables.HONOURED.keys() == set(honoured)
    assert {FIELDS[field].treatment for field in noticed} == {Treatment.NOTICE}


def test_every_message_and_stop_reason_stands_in_its_table() -> None:
    assert tables.SAMPLES.keys() == {*letta.MESSAGE_TYPES, "[DONE]", "any other"}
    for tag, sample in tables.SAMPLES.items():
        kind = letta.MESSAGE_TYPES.get(tag, {"[DONE]": letta.Done}.get(tag, letta.UnknownMessage))
        assert type(sample[-1]) is kind
    assert {*stream._FINISH_REASONS, *stream._FAILED_STOPS} <= set(tables.STOP_REASONS)
    assert "| `max_steps` | `finish_reason` `length` |" in tables.stop_reasons()
    assert "| `assistant_message` | `SPEAKING` | `TextDelta` |" in tables.messages()


def test_every_event_and_command_stands_in_its_table() -> None:
    assert all(f"`{cls.__name__}`" in tables.event_list() for cls in get_args(events.Event))
    assert all(f"`{cls.__name__}`" in tables.commands() for cls in get_args(rest_commands.Command))
    assert "|  |" not in tables.event_list() + tables.commands()  # each has a docstring


def test_every_code_of_an_error_is_explained() -> None:
    advised = {
        advice.code
        for advice in (
            *errors._RUN_FAILURES.values(),
            *errors._HTTP_FAILURES.values(),
            errors.LettaError.advice,
            errors.shutting_down().advice,
            errors.overloaded().advice,
            errors.invalid_reply("").advice,
            tables._given_up(),
        )
    }
    page = hook.expand((DOCS / "errors.md").read_text(encoding="utf-8"))
    internal = {errors.SansioLettaError.advice.code}
    assert tables.REQUEST_CODES.keys() | advised | {"upstream_timeout"} | internal == tables.codes_in_source()
    assert all(f"`{code}`" in page for code in tables.codes_in_source() - internal)


def test_a_status_is_that_of_its_code() -> None:
    """The statuses of the client's faults, where the code names both in one call."""
    for path in (*(ROOT / "sansio_letta").rglob("*.py"), *(ROOT / "transports" / "letta_server").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "RequestError"
            ):
                given = {item.arg: item.value for item in node.keywords}
                code, status = given.get("code"), given.get("status", ast.Constant(400))
                if isinstance(code, ast.Constant) and isinstance(status, ast.Constant):
                    assert str(status.value) in tables.REQUEST_CODES[str(code.value)][0], code.value


def test_every_setting_is_explained() -> None:
    core = tables.core_config()
    assert all(f"`{field.name}`" in core for field in attrs.fields(sansio_letta.Config))
    assert not re.search(r"\|  \|$", core.partition("---|\n")[2], re.MULTILINE)
    options = tables.option_names("serve")
    assert {"--host", "--letta-url", "--record"} <= options
    assert all(f"`{option}`" in hook.GENERATED["options-serve"]() for option in options)
    for module in (
        "cli/app",
        "cli/options",
        "settings/service",
        "settings/access",
        "settings/turns",
        "settings/threads",
    ):
        source = (ROOT / "transports" / "letta_server" / f"{module}.py").read_text(encoding="utf-8")
        for variable in re.findall(r'env_var="(\w+)"', source):
            assert variable in hook.GENERATED["options-serve"]()


def test_every_timeout_of_the_core_is_explained() -> None:
    config = sansio_letta.Config()
    page = (DOCS / "failures.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page.partition("## Timeouts\n")[2].splitlines() if row.startswith("| `")]
    said = {fixed(row[1])[0]: float(row[2].partition(",")[0]) for row in rows}
    timeouts = {field.name for field in attrs.fields(sansio_letta.Config) if field.name.endswith("_timeout")}
    assert said == {name: getattr(config, name) for name in timeouts}
    assert f"| {config.max_queue_count} | 409 `agent_busy`" in page
    assert all(f"`{repeat.value}`" in page for repeat in sansio_letta.Repeat)


def test_what_is_advised_about_is_there() -> None:
    known = {field.name for field in attrs.fields(sansio_letta.Config)}
    advised = set(first_cells("settings.md", "When to change a setting"))
    assert advised <= known
    assert {field.name for field in attrs.fields(letta_server.TurnSettings)} <= advised
    assert {field.name for field in attrs.fields(letta_server.ThreadSettings)} <= advised


def test_every_metric_and_every_field_of_the_log_is_explained() -> None:
    assert all(f"| `{name}` |" in tables.metrics() for name in METRICS)
    logged = tables.log_fields()
    for field in attrs.fields(sansio_letta.Summary):
        assert f"| `{tables._LOGGED.get(field.name, field.name)}` |" in logged
    assert not re.search(r"\|  \|$", logged.partition("---|\n")[2], re.MULTILINE)


def test_every_command_has_its_options_in_the_docs() -> None:
    named = {command for command in app if not command.startswith("-")}
    assert named == set(tables.COMMANDS)
    assert {f"options-{command}" for command in named if tables.option_names(command)} <= hook.GENERATED.keys()


# --- What is written by hand ----------------------------------------------------------------------------------


def first_cells(page: str, heading: str) -> list[str]:
    """What the first column of the table under a heading sets in code."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"# {heading}\n")[2]
    table = text[text.index("\n|") :].partition("\n\n| ")[0].lstrip("\n").partition("\n\n")[0]
    return [cell for row in table.splitlines()[2:] for cell in fixed(row.split("|")[1])]


def test_the_format_of_recordings_is_the_one_that_is_read() -> None:
    assert first_cells("recording-format.md", "The head") == [
        field.name for field in attrs.fields(recording.RecordingHead)
    ]
    kinds = first_cells("recording-format.md", "The lines")
    assert kinds == ["request", "response", "data", "end", "client_closed", "waited", "failed"]
    page = (DOCS / "recording-format.md").read_text(encoding="utf-8")
    assert all(f"`{field.name}`" in page for field in attrs.fields(reader._Happening))
    assert all(f"`{failure.value}`" in page for failure in Failure)
    assert f"`{recording.KIND}`" in page
    assert f"version: 1 to {recording.VERSION}" in page
    [example] = blocks(DOCS / "recording-format.md", "json")
    [exchange] = reader.read_recording(example.encode()).exchanges
    assert exchange.starts_run


def test_each_policy_is_an_option_and_told_of() -> None:
    page = (DOCS / "policies.md").read_text(encoding="utf-8")
    for name in policies.POLICIES:
        assert f"--{name}" in tables.option_names("serve")
        assert f"`{name}`" in page


def test_the_keys_files_of_the_docs_are_read(tmp_path: Path) -> None:
    files = [*blocks(DOCS / "access.md", "toml"), *blocks(DOCS / "policies.md", "toml")]
    for number, text in enumerate(files):
        path = tmp_path / f"{number}.toml"
        path.write_text(with_keys(text), encoding="utf-8")
        assert read_keys([path]).keys[0].caller.name == "alice"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=r"keys\.alice\.sha256: expected 64 .* `letta-proxy keys new`"):
            read_keys([path])
    fields = first_cells("access.md", "Keys")
    assert fields == list(keys_module._FIELDS)


def test_what_is_not_there_yet_is_not_there() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    [part] = re.findall(r"## What is not there yet(.*?)(?:\n## |\Z)", text, re.DOTALL)
    paths = re.findall(r"`(/\S+)` answers 404", part)
    assert paths
    for path in paths:
        request = sansio_letta.HttpRequest(method="POST", target=path, body=b"{}")
        head = sansio_letta.Proxy().open(request, token="abcdef12", created=0, now=0.0).next_event()
        assert isinstance(head, sansio_letta.ResponseHead)
        assert head.status == 404


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_says_that_agents_of_some_type_take_no_tools(page: Path) -> None:
    legacy = to_agent(letta.Agent(id="agent-1", name="Milo", agent_type="memgpt_v2_agent"))
    tools = OfferedTools(
        offered=(),
        policy=sansio_letta.Config().client_tools,
        ttl=1.0,
        created_tools=CreatedTools(),
        owner="",
        now=0,
    )
    assert tools.attaches_to(legacy)
    text = page.read_text(encoding="utf-8").replace("\n", " ")
    assert not re.search(r"(other|older) types?\b[^.]{0,80}(refused|cannot|400)|must be of the type", text)


def with_keys(text: str) -> str:
    """A keys file of the docs, with keys in place of its placeholders."""
    text = re.sub('sha256 = "<[^"]*>"', lambda _: f'sha256 = "{secrets.token_hex(32)}"', text)
    return re.sub('key = "<[^"]*>"', lambda _: f'key = "{secrets.token_hex(16)}"', text)


#: Where documentation shows a key: of a client library, of curl, in an environment.
SHOWN_KEYS = re.compile(
    r"""(?:api_?key["']?\s*[=:]\s*["']|Bearer |OPENAI_API_KEY=)([^\s"'`,;)<$]+)""", re.IGNORECASE
)


def test_no_key_that_the_docs_show_opens_a_server(tmp_path: Path) -> None:
    pages = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.py")]
    shown = {key for page in pages for key in SHOWN_KEYS.findall(page.read_text(encoding="utf-8"))}
    assert len(shown) >= 2
    for key in shown - {"KEY"}:
        path = tmp_path / "keys.toml"
        path.write_text(f'[keys.alice]\nsha256 = "{sha256(key.encode()).hexdigest()}"')
        with pytest.raises(SettingsError, match="expected a key that cannot be guessed"):
            read_keys([path])


def test_the_modes_of_redaction_are_all_there() -> None:
    modes = first_cells("recording.md", "What is redacted")
    assert sorted(modes) == sorted(mode.value for mode in recording.TextMode)


def test_what_record_expects_is_all_there() -> None:
    page = (DOCS / "recording.md").read_text(encoding="utf-8")
    assert all(f"`{expected}=" in page for expected in EXPECTATIONS)


def test_every_phase_of_the_turn_is_explained() -> None:
    assert first_cells("turn.md", "The turn") == [phase.name for phase in phases.Phase]


@pytest.mark.parametrize(
    ("page", "module"),
    [("sansio_letta", sansio_letta), ("letta_server", letta_server), ("letta_httpx", letta_httpx)],
)
def test_the_public_names_are_on_their_page(page: str, module: ModuleType) -> None:
    text = (DOCS / "api" / f"{page}.md").read_text(encoding="utf-8")
    for public in module.__all__:
        assert f"::: {page}.{public}\n" in text or f"`{page}.{public}`" in text, public
    for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
        owner, _, attribute = path.rpartition(".")
        assert hasattr(importlib.import_module(owner), attribute), path


def test_versions_are_those_that_are_tested() -> None:
    page = (DOCS / "clients" / "index.md").read_text(encoding="utf-8")
    for pins in (ROOT / "tests" / "clients_inprocess").glob("*.txt"):
        for package, version in re.findall(
            r"^([\w-]+)\S*==(\S+)$", pins.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert package == "pytest" or version in page, f"{package} {version}"


def test_both_in_process_packages_have_the_same_names() -> None:
    assert letta_httpx.__all__ == letta_httpx2.__all__
