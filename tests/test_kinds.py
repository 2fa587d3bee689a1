from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from supervisor import kinds
from supervisor.kinds import Kind, Name, Registry


class Pet(Kind):
    name: Name = "rex"

    async def feed(self) -> None:
        """Give it something."""


class Dog(Pet):
    key: ClassVar[str] = "bark"
    bark: int


class Cat(Pet):
    key: ClassVar[str] = "purr"
    purr: str


PETS = Registry("pet", "soakd.test-pets", Pet, [Dog, Cat])


class House(BaseModel):
    pets: dict[str, Annotated[Pet, PETS]]


def house(pets: object, base: Path | None = None) -> House:
    return House.model_validate({"pets": pets}, context={"base": base} if base else None)


def errors(pets: object, base: Path | None = None) -> list[tuple[tuple[Any, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        house(pets, base)
    return [(error["loc"], error["msg"]) for error in caught.value.errors()]


@pytest.fixture(autouse=True)
def _forget_foreign_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("soakd_"):
            del sys.modules[name]


def test_an_entry_is_recognised_by_its_one_distinctive_key() -> None:
    assert house({"a": {"bark": 3}, "b": {"purr": "low", "name": "tom"}}).pets == {
        "a": Dog(bark=3),
        "b": Cat(purr="low", name="tom"),
    }
    ready = Dog(bark=1)
    assert house({"a": ready}).pets["a"] is ready


def test_an_error_of_the_chosen_kind_keeps_its_own_place_and_no_other_kind_is_mentioned() -> None:
    assert errors({"a": {"bark": "x"}, "b": {"purr": "low", "nmae": "tom"}}) == [
        (("pets", "a", "bark"), "Input should be a valid integer, unable to parse string as an integer"),
        (("pets", "b", "nmae"), "Extra inputs are not permitted"),
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (5, "expected a mapping with one of bark, purr, python"),
        (None, "expected a mapping with one of bark, purr, python"),
        ({}, "no kind of pet here: expected one of bark, purr, python"),
        ({"name": "x"}, "no kind of pet here: expected one of bark, purr, python"),
        ({"brk": 3}, "no kind of pet here: expected one of bark, purr, python, did you mean bark?"),
        ({1: 3}, "no kind of pet here: expected one of bark, purr, python"),
        ({"bark": 3, "purr": "x"}, "a pet is of one kind, but this entry has bark and purr: split it"),
    ],
)
def test_an_entry_without_one_kind_says_what_was_expected(entry: object, message: str) -> None:
    assert errors({"a": entry}) == [(("pets", "a"), message)]


# --- kinds of the user's ---------------------------------------------------------------------------------------------

FOREIGN = """
from abc import abstractmethod
from typing import ClassVar
from tests_pets import Pet

class Fish(Pet):
    key: ClassVar[str] = "swim"
    swim: float

class Half(Pet):
    key: ClassVar[str] = "half"

    @abstractmethod
    def sit(self) -> None: ...

class Slow(Pet):
    key: ClassVar[str] = "slow"

    def feed(self) -> None:
        pass

class NoPet:
    pass
"""
ODD = """
from __future__ import annotations
from typing import ClassVar
from tests_pets import Pet

class Odd(Pet):
    key: ClassVar[str] = "odd"
    odd: Nowhere
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "tests_pets", sys.modules[__name__])
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "fish.py").write_text(textwrap.dedent(FOREIGN))
    return tmp_path


def test_a_soak_brings_its_own_kind_by_path_seen_from_its_folder(foreign: Path) -> None:
    found = house({"a": {"python": "kinds/fish.py:Fish", "swim": 2, "name": "wanda"}}, foreign).pets["a"]
    assert type(found).__name__ == "Fish"
    assert found.model_dump() == {"name": "wanda", "swim": 2.0}
    assert errors({"a": {"python": "kinds/fish.py:Fish", "swim": "x"}}, foreign)[0][0] == (
        "pets",
        "a",
        "swim",
    )


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (
            "kinds/shark.py:Fish",
            "there is no file {base}/kinds/shark.py; write path.py:Class, the path seen from the soak file",
        ),
        ("Fish", "there is no file {base}; write path.py:Class, the path seen from the soak file"),
        ("kinds/fish.py:Shark", "Shark is not a class there that extends {module}.Pet"),
        ("kinds/fish.py:NoPet", "NoPet is not a class there that extends {module}.Pet"),
        ("kinds/fish.py:Half", "Half does not define sit"),
        ("kinds/fish.py:Slow", "Slow.feed is awaited: write async def feed"),
        ("kinds/broken.py:Fish", "ZeroDivisionError: division by zero"),
        ("kinds/wrong.py:Fish", "SyntaxError: '(' was never closed (wrong.py, line 1)"),
        ("kinds/odd.py:Odd", "PydanticUndefinedAnnotation: name 'Nowhere' is not defined"),
        ("kinds/fish.txt:Fish", "ImportError: it is not a Python file"),
        (
            "kinds/exits.py:Fish",
            'it ended itself while it was loaded (exit 3): what it does as a program belongs under if __name__ == "__main__"',
        ),
    ],
)
def test_a_kind_that_cannot_be_loaded_says_why(foreign: Path, target: str, why: str) -> None:
    (foreign / "kinds" / "broken.py").write_text("1 / 0")
    (foreign / "kinds" / "wrong.py").write_text("print(")
    (foreign / "kinds" / "odd.py").write_text(ODD)
    (foreign / "kinds" / "fish.txt").write_text("")
    (foreign / "kinds" / "exits.py").write_text("import sys; sys.exit(3)")
    message = f"cannot load '{target}': {why.format(base=foreign, module=__name__)}"
    assert errors({"a": {"python": target}}, foreign) == [(("pets", "a"), message)]


def test_a_file_runs_once_as_long_as_it_does_not_change(foreign: Path) -> None:
    file, entry = foreign / "kinds" / "fish.py", {"python": "kinds/fish.py:Fish", "swim": 2}
    file.write_text(file.read_text() + "import os\nos.mkdir(__file__ + '.ran')  # fails the second time\n")
    both = house({"a": entry, "b": entry}, foreign).pets
    assert type(both["a"]) is type(both["b"])
    file.with_name("fish.py.ran").rmdir()
    file.write_text(file.read_text().replace("swim: float", "swim: float\n    depth: int = 7"))
    assert house({"a": entry}, foreign).pets["a"].model_dump()["depth"] == 7


def test_files_of_the_same_name_do_not_take_each_others_place(foreign: Path) -> None:
    other = foreign / "others" / "fish.py"
    other.parent.mkdir()
    other.write_text((foreign / "kinds" / "fish.py").read_text().replace("swim: float", "swim: int"))
    fish = {"swim": 2, "python": "kinds/fish.py:Fish"}
    pets = house({"a": fish, "b": {**fish, "python": "others/fish.py:Fish"}, "c": fish}, foreign).pets
    assert [type(pet.model_dump()["swim"]) for pet in pets.values()] == [float, int, float]
    modules = {type(pet).__module__ for pet in pets.values()}
    assert len(modules) == 2
    assert modules <= sys.modules.keys()


def test_others_bring_kinds_by_entry_point_but_never_instead_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bird(Pet):
        key: ClassVar[str] = "sing"
        sing: str

    class OtherDog(Pet):
        key: ClassVar[str] = "bark"

    class Point:
        def __init__(self, kind: type[Pet]) -> None:
            self.kind = kind

        def load(self) -> type[Pet]:
            return self.kind

    monkeypatch.setattr(
        kinds, "entry_points", lambda group: [Point(Bird), Point(OtherDog)] if group == "soakd.x" else []
    )
    registry = Registry("pet", "soakd.x", Pet, [Dog])
    assert registry.kinds == {"bark": Dog, "sing": Bird}


def test_find_is_for_those_who_have_no_model_at_hand() -> None:
    assert PETS.find({"bark": 1}, Path()) == (Dog, {"bark": 1})
    with pytest.raises(PydanticCustomError, match="no kind of pet here"):
        PETS.find({}, Path())


def test_the_schema_lists_every_kind_and_the_users_own() -> None:
    schema = TypeAdapter(House).json_schema()
    (entry,) = [schema["properties"]["pets"]["additionalProperties"]]
    *known, foreign = entry["anyOf"]
    assert [kind["$ref"] for kind in known] == ["#/$defs/Dog", "#/$defs/Cat"]
    assert foreign["required"] == ["python"]
    assert schema["$defs"]["Dog"]["additionalProperties"] is False


def test_kinds_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Dog(bark=1).bark = 2  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize("name", ["a", "worker-2", "stream.x_1", "A" * 64, "7"])
def test_names(name: str) -> None:
    assert Dog(bark=1, name=name).name == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "ä", "A" * 65, "a\n"])
def test_no_names(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be a name: expected up to 64 letters, digits"):
        Dog(bark=1, name=name)
