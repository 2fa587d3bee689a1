from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from supervisor.live.cursor import Cursor, Keys
from supervisor.live.layout import allot, draw, plain
from supervisor.live.picture import (
    BrokerPicture,
    BucketPicture,
    EntryPicture,
    RunPicture,
    Scene,
    StreamPicture,
)
from supervisor.live.words import age, amount, fit

SIZES = [(80, 24), (120, 40), (40, 8), (200, 60)]


def broker(**more: Any) -> BrokerPicture:
    streams = tuple(
        StreamPicture(
            name=f"stream_{n:05}", messages=n, bytes=n, first=1, last=n, leader="n1", changed=float(n)
        )
        for n in range(100)
    )
    entries = tuple(EntryPicture(bucket="B", key=f"k{n}", revision=n) for n in range(50))
    return BrokerPicture(
        **{
            "seen": 0.1,
            "total": 10_000,
            "matching": 10_000,
            "streams": streams,
            "buckets": (BucketPicture(name="B", live=50, complete=True),),
            "matching_entries": 50,
            "entries": entries,
            **more,
        }
    )


def run(**more: Any) -> RunPicture:
    units = {f"u{n}": {"state": "up", "for": 100 + n} for n in range(9)}
    down = {"dispatcher": {"state": "down", "for": 3, "crashes": 2, "last_crash": "ValueError: no"}}
    episodes = {
        "open": [{"episode": "bounce#2", "stage": "hold", "targets": ["u1"], "for": 3.0}],
        "closed": {},
    }
    return RunPicture.model_validate(
        {"phase": "soaking", "soak": "shop", "units": units | down, "episodes": episodes, **more}
    )


def shown(scene: Scene, size: tuple[int, int], cursor: Cursor | None = None) -> list[str]:
    lines = [line.plain for line in draw(scene, cursor or Cursor(), *size).lines]
    assert len(lines) == size[1]
    assert all(cell_len(line) <= size[0] for line in lines)
    return lines


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_filled_and_never_exceeded(size: tuple[int, int]) -> None:
    scenes = [
        Scene(title="x"),
        Scene(title="x" * 300, trouble="t" * 300),
        Scene(title="x", broker=broker()),
        Scene(title="x", run=run(), broker=broker(why="w" * 300)),
    ]
    for scene in scenes:
        shown(scene, size)


@pytest.mark.parametrize("size", SIZES[:2])
def test_all_that_matters_is_on_the_screen(size: tuple[int, int]) -> None:
    lines = shown(Scene(title="x", run=run(), broker=broker()), size)
    text = "\n".join(lines)
    for word in (
        "shop",
        "soaking",
        "bounce#2 hold 3s on u1",
        "dispatcher",
        "10,000",
        "stream_00000",
        "k0",
        "q quit",
    ):
        assert word in text
    units = next(n for n, line in enumerate(lines) if line.startswith("unit"))
    assert lines[units + 1].startswith("dispatcher")  # what is not up comes first


def test_the_pane_in_focus_has_most_of_the_room() -> None:
    scene = Scene(title="x", run=run(), broker=broker())
    for pane in ("streams", "entries", "units"):
        lots = draw(scene, Cursor(focus=pane), 80, 30).shown
        assert lots[pane] == max(lots.values())
        assert min(lots.values()) >= 2


def test_before_there_is_a_connection_the_screen_says_so() -> None:
    assert "connecting ..." in shown(Scene(title="x"), (80, 24))[1]
    assert not any("connecting" in line for line in shown(Scene(title="x", trouble="refused"), (80, 24)))


def test_what_is_wrong_is_not_cut_where_it_gets_interesting_nor_said_twice() -> None:
    trouble = "cannot use the broker at nats://127.0.0.1:4777 (connection default): 127.0.0.1:4777: Connection refused"
    scene = Scene(title="x", trouble=trouble, broker=BrokerPicture(why=f"{trouble}; waited 1s"))
    lines = shown(scene, (80, 24))
    assert " ".join(line.strip() for line in lines[1:3]) == trouble
    assert not any("not everything" in line for line in lines)
    why = "$JS.API.STREAM.NAMES: JetStream system temporarily unavailable (10008)"
    lines = shown(Scene(title="x", broker=broker(why=why)), (80, 24))
    at = next(n for n, line in enumerate(lines) if line.startswith("not everything is known: "))
    assert f"{lines[at]} {lines[at + 1].strip()}" == f"not everything is known: {why}"


def test_nothing_known_yet_is_unknown_and_not_nothing() -> None:
    text = "\n".join(shown(Scene(title="x", broker=BrokerPicture()), (80, 24)))
    assert "streams ?" in text
    assert "health has not been looked at yet" in text
    bare = BrokerPicture(
        seen=9.0,
        why="3 streams do not answer",
        total=3,
        unknown=1,
        matching=4,
        streams=(
            StreamPicture(name="a", known=False),
            StreamPicture(name="b", messages=1, doubted=True),
            StreamPicture(name="c", messages=1, quorum=False),
            StreamPicture(name="d", known=False, deleted=True),
        ),
        buckets=(BucketPicture(name="B", live=0, complete=False),),
    )
    lines = shown(Scene(title="x", broker=bare), (80, 24))
    rows = {line[:1]: line for line in lines if line[1:2] == " "}
    assert rows["a"].count("?") >= 4
    assert "unsure" in rows["b"]
    assert "no quorum" in rows["c"]
    assert "deleted" in rows["d"]
    text = "\n".join(lines)
    for words in ("not everything is known: 3 streams do not answer", "keys ?", "as of 9s ago", "at least"):
        assert words in text


def test_odd_names_cannot_reach_the_terminal() -> None:
    odd = ["\x1b[2Jboom", "a\nb", "\u202eright", "日本語" * 30, "", "tab\there", "e\u0301" * 90]
    streams = tuple(StreamPicture(name=name, messages=1) for name in odd)
    entries = tuple(EntryPicture(bucket="B", key=name, revision=1) for name in odd)
    scene = Scene(title=odd[0], trouble=odd[1], broker=broker(streams=streams, entries=entries))
    for size in SIZES:
        assert all(line.isprintable() for line in shown(scene, size))
    assert all(line.plain.isprintable() for line in plain(scene, 80))


@given(st.text(max_size=60), st.integers(0, 50), st.booleans())
def test_a_cell_is_exactly_as_wide_as_asked(text: str, width: int, right: bool) -> None:
    assert cell_len(fit(text, width, right=right)) == width


def test_a_long_name_keeps_both_ends() -> None:
    assert fit("provisioning-queue-0001", 12) == "provisio…001"


@given(st.integers(0, 10**20))
def test_numbers_have_eight_columns(number: int) -> None:
    assert len(amount(min(number, 9_999 * 10**12))) <= 8


@given(st.one_of(st.none(), st.floats(0, 9e6)))
def test_ages_have_four_columns(seconds: float | None) -> None:
    assert len(age(seconds)) <= 4


@given(st.integers(0, 60), st.lists(st.integers(1, 500), max_size=3), st.integers(0, 2))
def test_the_room_is_parted_and_never_exceeded(room: int, wants: list[int], focus: int) -> None:
    lots = allot(room, wants, focus % max(len(wants), 1))
    assert sum(lots) == min(room, sum(wants))
    assert all(0 <= lot <= want for lot, want in zip(lots, wants, strict=True))


# --- keys --------------------------------------------------------------------------------------------------------------


def test_keys_may_come_in_pieces() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.pending
    assert keys.feed(b"[") == []
    assert keys.feed(b"Bq\x1b[6~\x1bOA\x1b[99;5Xs") == ["down", "q", "page down", "up", "s"]
    assert keys.feed("é".encode()[:1]) == []
    assert keys.feed("é".encode()[1:]) == ["é"]
    assert keys.feed(b"\x1b") + keys.flush() == ["escape"]
    assert not keys.pending


@given(st.lists(st.binary(max_size=6), max_size=20))
def test_no_bytes_upset_keys_or_cursor(chunks: list[bytes]) -> None:
    keys, cursor = Keys(), Cursor()
    cursor.settle({"streams": 10, "entries": 4}, {"streams": 100, "entries": 2})
    for chunk in chunks:
        for key in keys.feed(chunk):
            cursor.press(key)
    cursor.wish()


def test_the_cursor_scrolls_filters_and_sorts() -> None:
    cursor = Cursor()
    cursor.settle({"streams": 10, "entries": 5}, {"streams": 100, "entries": 3})
    cursor.press("page down")
    assert cursor.wish().streams_from == 9
    cursor.press("end")
    assert cursor.wish().streams_from == 90
    assert cursor.settle({"streams": 10, "entries": 5}, {"streams": 20, "entries": 3})
    assert cursor.wish().streams_from == 10
    cursor.press("s")
    assert (cursor.wish().sort, cursor.wish().streams_from) == ("name", 0)
    for key in ("/", "a", "q", "erase", "b", "enter"):
        assert cursor.press(key)
    assert cursor.wish().match == "ab"
    cursor.press("tab")
    assert cursor.focus == "entries"
    cursor.press("down")
    assert cursor.wish().entries_from == 0
    cursor.press("escape")
    assert cursor.wish().match == ""
    assert not cursor.press("q")
