"""Loading: what a good file becomes, and files that are none."""

from __future__ import annotations

import codecs
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from supervisor.soakfile import validation
from supervisor.soakfile.errors import Problem, SoakFileError
from supervisor.soakfile.load import MAX_BYTES, Loaded, load, load_saved
from supervisor.soakfile.masking import secret_fields
from supervisor.soakfile.schema import json_schema

ROOT = Path(__file__).parents[2]
ENV = {"NATS_PASSWORD": "hunter2hunter2", "PORT": "9000", "NAMED": "x: {y}"}


@pytest.fixture
def soak_file(tmp_path: Path) -> Path:
    return tmp_path / "soak.yaml"


def loaded(file: Path, text: str, **more: Any) -> Loaded:
    file.write_text(text)
    return load(file, ENV, **more)


def problems(file: Path, text: str | bytes, **more: Any) -> list[Problem]:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SoakFileError) as raised:
        load(file, ENV, **more)
    return raised.value.problems


def test_the_example_loads() -> None:
    soak = load(ROOT / "config" / "example.yaml", ENV).soak
    assert soak.duration == 4 * 3600
    assert list(soak.units()) == ["gateway", "client"]
    assert soak.after() == {"gateway": (), "client": ("gateway",)}
    assert [unit for _, unit in soak.watched()] == ["gateway", "client"]
    assert [probe.key for probe in soak.steady_state] == ["http", "tcp", "command", "unit", "broker", "log"]


def test_the_schema_is_made_for_files_alone_in_which_something_is_wrong(
    soak_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(validation, "json_schema", lambda: asked.append("") or json_schema())
    load(ROOT / "config" / "example.yaml", ENV)
    assert not asked, "it takes longer to make than all else that loading does"
    assert problems(soak_file, "soak: x\nweb: {port: }\n")
    assert asked == [""]


def test_this_processs_environment_is_the_default(soak_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK_NAME", "from-outside")
    soak_file.write_text("soak: ${SOAK_NAME}\n")
    assert load(soak_file).soak.soak == "from-outside"


def test_a_variable_is_a_number_where_one_is_wanted_and_text_where_text_is(soak_file: Path) -> None:
    soak = loaded(
        soak_file,
        'soak: x\nweb: {port: "${PORT}"}\non: {end: {command: ["${PORT}", "${NAMED}"], shell: "${NO:-false}"}}',
    ).soak
    assert soak.web.port == 9000
    assert soak.on.end is not None
    assert soak.on.end.command == ("9000", "x: {y}")
    assert soak.on.end.shell is False


def test_a_value_from_the_environment_is_never_shown(soak_file: Path) -> None:
    [problem] = problems(soak_file, "soak: x\nseed: ${NATS_PASSWORD}\n")
    assert problem.message == 'expected a whole number, found "${NATS_PASSWORD}"'
    [problem] = problems(soak_file, "soak: ${NAMED}\n")
    assert problem.message.startswith('"${NAMED}" cannot be a name: ')


def test_a_secret_is_masked_where_a_message_would_quote_it(soak_file: Path) -> None:
    text = "soak: x\nbroker: {servers: [127.0.0.1], user: me, password: topsecret}\nthresholds: [topsecret]\n"
    [problem] = problems(soak_file, text)
    assert "topsecret" not in str(problem)
    assert "there is no metric '***'" in problem.message


def test_the_saved_text_keeps_variables_and_masks_secrets(soak_file: Path) -> None:
    text = """\
soak: x   # a comment stays
broker:
  servers: [127.0.0.1]
  user: me
  password: ${NATS_PASSWORD}
  connections:
    a: {user: a, password: &p "literal one"}
    b: {user: b, password: *p}
    c: {user: c, password: "${UNSET:-literal two}"}
    d:
      user: d
      password: |
        literal three
    e: {token: literal-four}
    f: {user: f, password: "${UNSET:-}"}
"""
    result = loaded(soak_file, text)
    assert (
        result.resolved
        == """\
soak: x   # a comment stays
broker:
  servers: [127.0.0.1]
  user: me
  password: ${NATS_PASSWORD}
  connections:
    a: {user: a, password: &p "***"}
    b: {user: b, password: *p}
    c: {user: c, password: "${UNSET:-***}"}
    d:
      user: d
      password: "***"
    e: {token: "***"}
    f: {user: f, password: "${UNSET:-}"}
"""
    )
    literal = {"literal one", "literal two", "literal three\n", "literal-four"}
    assert result.secrets == {"hunter2hunter2", *literal}
    again = loaded(soak_file, result.resolved).soak
    assert again.broker is not None
    assert again.broker.password == result.soak.broker.password  # type: ignore[union-attr]  # it has one, see above


def test_recovery_takes_masked_secrets_from_the_file_itself(soak_file: Path, tmp_path: Path) -> None:
    """As long as that still has them: else they stay masked, and the broker says that they are none."""
    text = """\
soak: x
broker:
  servers: [127.0.0.1]
  user: me
  password: &p "literal \\"one\\""
  connections:
    b: {user: b, password: *p}
    c: {user: c, password: "${UNSET:-literal two}"}
    d: {token: literal-four}
"""
    copy, result = tmp_path / "copy.yaml", loaded(soak_file, text)
    copy.write_text(result.resolved)
    assert "literal" not in result.resolved
    again = load_saved(copy, soak_file)
    assert secrets(again) == secrets(result)
    soak_file.write_text(text.replace("literal-four", "another").replace("    c:", "    cc:"))
    changed = secrets(load_saved(copy, soak_file))
    assert changed == {**secrets(result), "d": "another", "c": "***"}
    soak_file.unlink()
    assert set(secrets(load_saved(copy, soak_file)).values()) == {"***"}


def secrets(of: Loaded) -> dict[str | int, str]:
    return {path[-2]: value for path, value in secret_fields(of.soak)}


def test_the_command_line_comes_first_and_is_noted(soak_file: Path) -> None:
    text = "soak: x\nduration: 4h\n"
    result = loaded(soak_file, text, overrides={"duration": "2m", "seed": 9})
    assert (result.soak.duration, result.soak.seed) == (120, 9)
    assert result.resolved == f"# soakd: --duration 2m\n# soakd: --seed 9\n{text}"
    assert loaded(soak_file, text, overrides={"duration": None}).soak.duration == 4 * 3600


def test_a_wrong_option_is_named_as_one(soak_file: Path) -> None:
    [problem] = problems(soak_file, "soak: x\nduration: 4h\n", overrides={"duration": "2 min"})
    assert str(problem) == ('--duration: expected a duration such as 500ms, 40s, 5m or 1h30m, found "2 min"')


def test_paths_are_seen_from_the_files_folder_unless_told(soak_file: Path, tmp_path: Path) -> None:
    text = "soak: x\nbroker: {servers: [127.0.0.1], creds: a.creds}\n"
    broker = loaded(soak_file, text).soak.broker
    assert broker is not None
    assert broker.creds == tmp_path / "a.creds"
    broker = loaded(soak_file, text, base=Path("/elsewhere")).soak.broker
    assert broker is not None
    assert broker.creds == Path("/elsewhere/a.creds")


def test_an_embedded_broker_is_written_out(soak_file: Path) -> None:
    text = "soak: x\nbroker: {embedded: {nodes: 3}, monitor: {every: 1s}}\nfaults: {f: {restart: nats2, every: 40s}}\n"
    result = loaded(soak_file, text, ports=count(20000))
    assert list(result.soak.units()) == ["nats1", "nats2", "nats3"]
    assert result.soak.broker is not None
    assert list(result.soak.broker.nodes) == ["nats1", "nats2", "nats3"]
    assert result.soak.broker.monitor.every == 1
    assert result.resolved == text
    assert result.where("engines", "embedded") == f"{soak_file}:2:10: broker.embedded"
    assert result.where("faults", "f", "every") == f"{soak_file}:3:30: faults.f.every"
    assert result.secrets == frozenset(), "the embedded broker's password is soakd's own name, and no secret"


def test_an_embedded_broker_beside_units_of_the_same_name(soak_file: Path) -> None:
    text = """\
soak: x
broker: {embedded: {nodes: 1}}
engines: {own: {process: {units: {nats1: {command: nats-server}}}}}
"""
    soak = loaded(soak_file, text).soak
    assert list(soak.units()) == ["embedded/nats1", "own/nats1"]
    assert soak.broker is not None
    assert list(soak.broker.nodes) == ["embedded/nats1"]


def test_a_missing_nats_server_is_said_of_the_embedded_broker(soak_file: Path) -> None:
    text = "soak: x\nbroker:\n  embedded: {nodes: 3}\nsteady_state: [{broker: canary}]\n"
    [problem] = problems(soak_file, text, ports=iter(()))
    assert (problem.line, problem.path) == (3, "broker.embedded")


def test_what_is_wrong_with_a_part_hides_nothing_about_the_others(soak_file: Path) -> None:
    found = problems(
        soak_file,
        """\
soak: x
duraton: 1h
engines:
  local: {process: {units: {api: {command: api, after: [db]}}}}
loads:
  bad: {comand: pytest}
  good: {command: pytest, pause: "${UNSET}"}
faults:
  bad: {restart: api}
thresholds:
  - "load bad: ok >= 95%"
  - "recovery of bad < 1s"
  - "load other: ok >= 95%"
watchdogs:
  - units: ap
""",
    )
    assert [(p.line, p.column, p.path) for p in found] == [
        (2, 1, "duraton"),
        (4, 57, "engines.local.process.units.api.after[0]"),
        (6, 8, "loads.bad"),
        (7, 34, "loads.good.pause"),
        (9, 8, "faults.bad"),
        (13, 11, "thresholds[2]"),
        (15, 12, "watchdogs[0].units"),
    ]


def test_units_are_not_missed_while_an_engine_cannot_be_read(soak_file: Path) -> None:
    found = problems(soak_file, "soak: x\nengines: {local: {proces: {}}}\nwatchdogs: [{units: api}]\n")
    assert [p.path for p in found] == ["engines.local"]


def test_loads_are_not_missed_while_none_can_be_read(soak_file: Path) -> None:
    found = problems(soak_file, "soak: x\nloads: [pytest]\nthresholds: ['load e2e: ok >= 95%']\n")
    assert [p.path for p in found] == ["loads"]


def test_names_of_units_are_ids_or_engine_and_name(soak_file: Path) -> None:
    soak = loaded(
        soak_file,
        """\
soak: x
engines:
  a: {process: {units: {api: {command: api, after: [db]}, db: {command: db}, one: {command: one, after: [b/db]}}}}
  b: {process: {units: {db: {command: db, after: [a/api]}}}}
watchdogs:
  - units: [a/api, b/db, one]
""",
    ).soak
    assert soak.units() == {
        "api": ("a", "api"),
        "a/db": ("a", "db"),
        "one": ("a", "one"),
        "b/db": ("b", "db"),
    }
    assert soak.after() == {"api": ("a/db",), "a/db": (), "one": ("b/db",), "b/db": ("api",)}
    assert [unit for _, unit in soak.watched()] == ["api", "b/db", "one"]


def test_a_kind_of_the_users_own(soak_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        """
from typing import ClassVar
from pydantic import SecretStr
from supervisor.loads.base import Load

class Mine(Load):
    key: ClassVar[str] = "mine"
    rate: int
    code: SecretStr
    async def run(self, context): ...
"""
    )
    result = loaded(soak_file, 'soak: x\nloads: {own: {python: "mine.py:Mine", rate: 3, code: letmein}}\n')
    assert type(result.soak.loads["own"]).__name__ == "Mine"
    assert result.secrets == {"letmein"}
    assert "letmein" not in result.resolved
    [problem] = problems(
        soak_file, 'soak: x\nloads: {own: {python: "mine.py:Mine", rat: 3, rate: 1, code: letmein}}\n'
    )
    assert (problem.path, problem.message) == ("loads.own.rat", "there is no such key here")


def test_a_byte_order_mark_and_other_line_ends(soak_file: Path) -> None:
    soak_file.write_bytes(codecs.BOM_UTF8 + b"soak: x\r\nseed: 3\r\n")
    assert load(soak_file, {}).soak.seed == 3


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (b"soak: x\nseed: caf\xc3\xa9\xff", (2, 11), "the byte 0xFF is not UTF-8: save the file as UTF-8"),
        (b"\xff\xfes\x00o\x00", (1, 1), "the byte 0xFF is not UTF-8: save the file as UTF-8"),
        (b"#" * (MAX_BYTES + 1), (0, 0), "this is larger than 256 kB, and surely no soak file"),
        (b"", (1, 1), "the file is empty: a soak file begins with soak: NAME"),
    ],
)
def test_a_file_that_is_no_text(soak_file: Path, text: bytes, place: tuple[int, int], message: str) -> None:
    [problem] = problems(soak_file, text)
    assert (problem.line, problem.column) == place
    assert problem.message == message


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SoakFileError) as raised:
        load(tmp_path)
    assert str(raised.value) == f"{tmp_path}: this is a directory: name the soak file in it"
    with pytest.raises(SoakFileError) as raised:
        load(tmp_path / "none.yaml")
    assert str(raised.value) == f"{tmp_path}/none.yaml: cannot read the soak file: no such file or directory"
