"""`${NAME}` and `${NAME:-default}` in the texts of a soak file.

Put in after the YAML was read, so a variable can hold any character and never changes the file's structure. The result stays
text; where the model wants a number or true/false, text that reads as one is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from supervisor.soakfile.document import Flaw, Listing, Mapped, Node, Scalar
from supervisor.soakfile.errors import Path

_REFERENCE: Final = re.compile(r"\$\$|\$\{(?P<inside>[^}]*)\}|\$\{")
_INSIDE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>.*))?", re.DOTALL)


def substitute(text: str, env: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the text with its variables put in, and what is wrong with those that could not be.

    `${NAME:-default}` is the default where NAME is unset or empty, as in a shell; `$$` is one `$`; a `$` before anything else
    is itself.
    """
    wrong: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        inside = _INSIDE.fullmatch(match["inside"] or "")
        if inside is None:
            wrong.append(
                f"cannot read {match[0]}: expected ${{NAME}} or ${{NAME:-default}}, or $${{ for a plain ${{"
            )
            return match[0]
        name, found = inside["name"], env.get(inside["name"])
        if inside["fallback"] is not None:
            return found or inside["default"]
        if found is None:
            wrong.append(
                f"the environment variable {name} is not set: set it, or write ${{{name}:-default}} here"
            )
            return match[0]
        return found

    return _REFERENCE.sub(value, text), list(dict.fromkeys(wrong))


def plain_data(node: Node | None, env: Mapping[str, str], path: Path = ()) -> tuple[Any, list[Flaw]]:
    """Return a tree as plain data with all variables put in, and a flaw for each that could not be."""
    match node:
        case Scalar(value=str() as text):
            value, wrong = substitute(text, env)
            return value, [Flaw(node.mark, path, what) for what in wrong]
        case Scalar():
            return node.value, []
        case Mapped():
            pairs = {key: plain_data(entry.node, env, (*path, key)) for key, entry in node.entries.items()}
            return {key: data for key, (data, _) in pairs.items()}, [
                f for _, flaws in pairs.values() for f in flaws
            ]
        case Listing():
            items = [plain_data(item, env, (*path, index)) for index, item in enumerate(node.items)]
            return [data for data, _ in items], [f for _, flaws in items for f in flaws]
        case _:
            return None, []
