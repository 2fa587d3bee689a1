"""Kinds: how an entry of the soak file becomes the object that acts.

A kind is one frozen model. An entry is recognised by the one key that only its kind has, `restart` in `{restart: [nats1],
every: 40s}`; that key is a field of the class like any other. A room lists its kinds in one explicit `Registry`; others bring
theirs by entry point (group `soakd.<room>`) or, for a single soak, as `python: path.py:Class`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

PYTHON = "python"
"""The key of a kind that the soak file brings itself, as `path.py:Class`."""


NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_name(text: str) -> str:
    """Return a name that can be part of file names and a label of metrics; ValueError for any other."""
    if NAME.fullmatch(text):
        return text
    raise ValueError(
        f'"{text[:80]}" cannot be a name: expected up to 64 letters, digits, "-", "_" and ".", '
        "the first of them a letter or digit"
    )


Name = Annotated[
    str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})
]
"""The name of a soak, an engine, a unit, a load or a fault."""


class Strict(BaseModel):
    """A part of the soak file: frozen, and an unknown key is an error. A soak needs few of the kinds: each is built when it is used."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, defer_build=True
    )


class Kind(Strict):
    """A kind of fault, load, probe or engine: the model of its entry and the object that acts."""

    key: ClassVar[str]
    """The distinctive key; also the name of the field that holds it."""

    @classmethod
    def file(cls) -> tuple[Path, object] | None:
        """Return the file of the user's that it was loaded from, and what `take_in` in another process is told; None: of none."""
        module = sys.modules.get(cls.__module__)
        stamp = getattr(module, _STAMP, None)
        return (Path(str(module.__file__)), stamp) if module and stamp else None


K = TypeVar("K", bound=Kind)


class Registry(Generic[K]):
    """The kinds of one room, in the order in which messages and docs list them."""

    def __init__(self, noun: str, group: str, base: type[K], kinds: Iterable[type[K]]) -> None:
        self.noun, self.group, self.base = noun, group, base
        self.part: type[Strict] | None = None
        self._joined: dict[type[K], type[K]] = {}
        """Kinds with `part`: made when they are asked for, since a soak needs few of them."""
        self.kinds: dict[str, type[K]] = {kind.key: kind for kind in kinds}
        for point in entry_points(group=group):
            kind = point.load()
            self.kinds.setdefault(kind.key, kind)

    def having(self, part: type[Strict]) -> Registry[K]:
        """Return the same kinds, each with the fields of `part` as well: what a room above knows of all of them."""
        made: Registry[K] = copy(self)
        made.part, made._joined = part, {}
        return made

    def _with_part(self, kind: type[K]) -> type[K]:
        if self.part is None:
            return kind
        if kind not in self._joined:
            names = {
                "__module__": kind.__module__,
                "__qualname__": kind.__qualname__,
                "__doc__": kind.__doc__,
            }
            joined = types.new_class(
                kind.__name__, (kind, self.part), exec_body=lambda space: space.update(names)
            )
            self._joined[kind] = cast("type[K]", joined)
        return self._joined[kind]

    def find(self, entry: object, base: Path) -> tuple[type[K], Mapping[str, Any]]:
        """Return the class that an entry asks for and the keys meant for it; PydanticCustomError says why there is none."""
        if not isinstance(entry, Mapping):
            raise PydanticCustomError(
                "kind", "{what}", {"what": f"expected a mapping with one of {self._keys()}"}
            )
        if PYTHON in entry:
            return self._with_part(self._foreign(entry[PYTHON], base)), {
                k: v for k, v in entry.items() if k != PYTHON
            }
        found = [key for key in entry if key in self.kinds]
        if len(found) == 1:
            return self._with_part(self.kinds[found[0]]), entry
        if found:
            what = f"a {self.noun} is of one kind, but this entry has {' and '.join(found)}: split it"
        else:
            near = [n for key in entry for n in difflib.get_close_matches(str(key), self.kinds, 1, 0.6)]
            hint = f", did you mean {near[0]}?" if near else ""
            what = f"no kind of {self.noun} here: expected one of {self._keys()}{hint}"
        raise PydanticCustomError("kind", "{what}", {"what": what})

    def _keys(self) -> str:
        return ", ".join([*self.kinds, PYTHON])

    def _foreign(self, target: object, base: Path) -> type[K]:
        """Load `path.py:Class`, the path seen from the soak file's folder."""
        path, _, name = str(target).rpartition(":")
        file = (base / path).resolve()

        def refuse(why: str) -> PydanticCustomError:
            return PydanticCustomError("kind", "{what}", {"what": f"cannot load {target!r}: {why}"})

        if not path or not file.is_file():
            raise refuse(f"there is no file {file}; write path.py:Class, the path seen from the soak file")
        try:
            module = _module(file)
        except Exception as error:
            raise refuse(f"{type(error).__name__}: {error}") from error
        except SystemExit as error:
            raise refuse(
                f"it ended itself while it was loaded (exit {error.code}): what it does as a program belongs under "
                'if __name__ == "__main__"'
            ) from error
        kind = getattr(module, name, None)
        if not (isinstance(kind, type) and issubclass(kind, self.base)):
            raise refuse(
                f"{name} is not a class there that extends {self.base.__module__}.{self.base.__name__}"
            )
        if missing := sorted(kind.__abstractmethods__):
            raise refuse(f"{name} does not define {' and '.join(missing)}")
        for method, _ in inspect.getmembers(self.base, inspect.iscoroutinefunction):
            if not inspect.iscoroutinefunction(inspect.unwrap(getattr(kind, method))):
                raise refuse(f"{name}.{method} is awaited: write async def {method}")
        try:
            kind.model_rebuild()
        except Exception as error:
            raise refuse(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
        return kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Dispatch by key; an error of the chosen kind keeps its own place, as if no union were there."""

        def dispatch(entry: object, _: Callable[[object], object], info: ValidationInfo) -> object:
            if isinstance(entry, self.base):
                return entry
            context = info.context if isinstance(info.context, dict) else {}
            kind, keys = self.find(entry, Path(context.get("base", ".")))
            return kind.model_validate(keys, context=info.context)

        return core_schema.with_info_wrap_validator_function(dispatch, core_schema.any_schema())

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Any of the kinds, or a class of the user's."""
        kinds = [self._with_part(kind) for kind in self.kinds.values()]
        for kind in kinds:
            kind.model_rebuild()
        known = handler(core_schema.union_schema([*(kind.__pydantic_core_schema__ for kind in kinds)]))
        foreign = {
            "type": "object",
            "required": [PYTHON],
            "properties": {
                PYTHON: {
                    "type": "string",
                    "description": f"A kind of {self.noun} of your own: path.py:Class.",
                }
            },
        }
        return {"anyOf": [*known.get("anyOf", [known]), foreign]}


_STAMP: Final = "__soakd_stamp__"


def take_in(file: Path, stamp: object) -> None:
    """Load a file of the user's as the process did that told of it; RuntimeError if it has changed since."""
    if getattr(_module(file), _STAMP) != stamp:
        raise RuntimeError(
            f"{file} has changed since the run began: what began with the old one cannot go on with the new one"
        )


def _module(file: Path) -> types.ModuleType:
    """Run a file of the user's as a module, once as long as it does not change; whatever it raises comes out.

    Its name has a digest of its path, so that files of the same name do not take each other's place.
    """
    status = file.stat()
    stamp = (status.st_mtime_ns, status.st_size)
    name = f"soakd_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, _STAMP, None) == stamp:
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    setattr(module, _STAMP, stamp)
    sys.modules[name] = module  # pydantic looks the annotations of a class up in its module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
