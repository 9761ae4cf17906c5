"""Tells griffe, which reads the API pages' signatures from the source, how attrs makes an ``__init__``."""

import ast
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Function, Parameter, ParameterKind, Parameters

_DECORATORS = {"frozen", "define"}


class AttrsExtension(Extension):
    """Gives attrs classes their parameters, and their fields the ``#:`` comments as docstrings."""

    def on_class_members(self, *, cls: Class, **_: object) -> None:
        """Called for each class when its members are known."""
        for decorator in cls.decorators:
            call = ast.parse(str(decorator.value), mode="eval").body
            name = ast.unparse(call.func if isinstance(call, ast.Call) else call)
            if name in _DECORATORS:
                given = _keywords(call)
                self._add_init(cls, kw_only=given.get("kw_only") == "True")

    @staticmethod
    def _add_init(cls: Class, *, kw_only: bool) -> None:
        parameters = [Parameter("self", kind=ParameterKind.positional_or_keyword)]
        lines = cls.lines_collection[cls.filepath]
        for attribute in cls.attributes.values():
            if attribute.annotation is None or "ClassVar" in str(attribute.annotation):
                continue
            if (comment := _comment(attribute, lines)) and attribute.docstring is None:
                attribute.docstring = Docstring(comment, parent=attribute)
            value: Any = attribute.value
            call = ast.parse(str(value), mode="eval").body if value is not None else None
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "field":
                given = _keywords(call)
                if given.get("init") == "False":
                    continue
                value = given.get("default") or ("..." if "factory" in given else None)
                name = ast.literal_eval(given["alias"]) if "alias" in given else attribute.name.lstrip("_")
            else:
                name = attribute.name.lstrip("_")
            parameters.append(
                Parameter(
                    name,
                    annotation=attribute.annotation,
                    kind=ParameterKind.keyword_only if kw_only else ParameterKind.positional_or_keyword,
                    default=value,
                )
            )
        init = Function("__init__", parameters=Parameters(*parameters), returns="None")
        cls.set_member("__init__", init)


def _keywords(call: ast.expr) -> dict[str, str]:
    if not isinstance(call, ast.Call):
        return {}
    return {item.arg: ast.unparse(item.value) for item in call.keywords if item.arg}


def _comment(attribute: Attribute, lines: list[str]) -> str:
    """What stands behind a field, or above it."""
    if attribute.lineno is None:
        return ""
    behind = lines[(attribute.endlineno or attribute.lineno) - 1].partition("  #:")[2].strip()
    above: list[str] = []
    number = attribute.lineno - 2
    while lines[number].lstrip().startswith("#:"):
        above.insert(0, lines[number].lstrip().removeprefix("#:").strip())
        number -= 1
    return " ".join(above) or behind
