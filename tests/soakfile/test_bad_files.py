"""One bad file for each rule, with exactly what is said about it beside it.

`text/` cannot be read as YAML, or as what a soak file is made of; `structure/` is what the JSON schema sees too, so that an editor
marks it while one types; `meaning/` is what only soakd can see.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from supervisor.soakfile.errors import SoakFileError
from supervisor.soakfile.load import load
from supervisor.soakfile.schema import json_schema

BAD = Path(__file__).parent / "bad"
FILES = sorted(BAD.glob("*/*.yaml"))


def name(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_everything_wrong_is_said_at_its_place(file: Path) -> None:
    with pytest.raises(SoakFileError) as raised:
        load(file, {})
    said = str(raised.value).replace(str(file), file.name).replace(f"{file.parent}/", "")
    assert said.splitlines() == file.with_suffix(".txt").read_text().splitlines()


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name != "text"], ids=name)
def test_the_schema_sees_what_is_wrong_with_the_structure_and_nothing_else(file: Path) -> None:
    valid = Draft202012Validator(json_schema()).is_valid(YAML(typ="safe", pure=True).load(file))
    assert valid == (file.parent.name == "meaning")


def test_every_file_has_its_messages() -> None:
    assert {f.stem for f in BAD.glob("*/*.txt")} == {f.stem for f in FILES}


def test_no_message_is_in_pydantics_words() -> None:
    texts = [file.read_text() for file in BAD.glob("*/*.txt")]
    assert not [text for text in texts if "nput should" in text or "validation error" in text.lower()]
