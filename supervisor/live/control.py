"""Speaks with the control endpoint of a run: finds it by a soak file, a run directory or an address, asks, and takes the answer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread

from supervisor.journal.runs import RunIndex
from supervisor.web.place import ADDRESS, ANSWER, SOCKET, TOKEN

if TYPE_CHECKING:
    from supervisor.soak import Soak

PATIENCE: Final = ANSWER + 5.0
"""Seconds for one request; the endpoint itself answers before."""


class CannotControl(Exception):  # noqa: N818  # what happened is in the name
    """Nothing was done; the text says why, and what to do."""


class WrongWords(CannotControl):
    """What was asked for cannot be meant."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a run's control endpoint."""

    shown: str
    directory: Path | None = None
    """Where its socket is; None: it is at `url`."""
    url: str = "http://localhost"
    token: str | None = field(default=None, repr=False)


def way_to(what: str | None, index: RunIndex, env: Mapping[str, str]) -> Way:
    """Return the way to the run that is meant: of a soak file, in a run directory, at an address, or the only one of this host.

    A soak file leads to the run that was started with it even while it is wrong, since it may be in the midst of being edited. It is
    read only where that is not enough: to find a run of the same soak, or the token of its port. SoakFileError if it is wrong then,
    CannotControl if no run goes on there.
    """
    token = env.get(TOKEN)
    if what and "://" in what:
        return Way(what, None, _url(what), token)
    if what and not Path(what).is_dir():
        return _of_file(Path(what), index, token)
    if what:
        return _of_run(Path(what), token)
    return _of_run(_only(index.living(), "", "say which one is meant, by FILE, RUN_DIR or URL"), token)


def _of_file(file: Path, index: RunIndex, token: str | None) -> Way:
    if runs := index.living(source=file):
        way = _of_run(_only(runs, f" of {file}", ""), token)
        return way if way.directory or way.token else replace(way, token=_token(_read(file)))
    soak = _read(file)
    run = _only(index.living(soak.soak), f" of {soak.soak}", f"start one with `soakd run {file}`")
    return _of_run(run, token or _token(soak))


def _read(file: Path) -> Soak:
    # All kinds there are come along with it, which takes longer than everything else here.
    from supervisor.soakfile.load import load  # noqa: PLC0415

    return load(file).soak


def _token(soak: Soak) -> str | None:
    return soak.control.token.get_secret_value() if soak.control else None


def _only(runs: Sequence[Path], of: str, none: str) -> Path:
    """Return the one run there is; CannotControl if there is none, WrongWords if there are more: nobody guesses which is meant."""
    if not runs:
        raise CannotControl(f"no run{of} goes on here: {none}")
    if len(runs) > 1:
        listed = "".join(f"\n  {run}" for run in runs)
        raise WrongWords(f"{len(runs)} runs{of} go on here; say which one is meant:{listed}")
    return runs[0]


def _of_run(directory: Path, token: str | None) -> Way:
    if (directory / SOCKET).is_socket():
        return Way(str(directory), directory)
    try:
        return Way(str(directory), None, (directory / ADDRESS).read_text().strip(), token)
    except OSError:
        raise CannotControl(
            f"{directory}: it has no control endpoint: the run is over, or has not begun to soak, or its part is being started again"
        ) from None


def _url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme != "http" or not url.hostname or url.path.rstrip("/") or "@" in url.netloc:
        raise WrongWords(f"cannot control {text}: expected http://HOST:PORT, and the token in {TOKEN}")
    return f"http://{url.netloc}"


async def ask(way: Way, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make one request; CannotControl if it is not done, WrongWords if it cannot be meant."""
    headers = {"Authorization": f"Bearer {way.token}"} if way.token else {}
    timeout = aiohttp.ClientTimeout(PATIENCE)
    async with _connector(way) as connector:
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as http,
                http.request(method, way.url + path, json=body) as answer,
            ):
                told: dict[str, Any] = await answer.json()
        except aiohttp.ContentTypeError as error:
            what = f"what answers there is no control endpoint; a run has its address in the file `{ADDRESS}` of its directory"
            raise CannotControl(f"cannot control {way.shown}: {what}") from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise CannotControl(f"cannot reach the run at {way.shown}: {_why(error)}") from error
    if answer.status == 200:
        return told
    text = str(told.get("error", f"status {answer.status}"))
    raise WrongWords(text) if answer.status in {400, 401, 404} else CannotControl(text)


def _why(error: Exception) -> str:
    """Say in few words what kept a request from being answered."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno).lower()
    return str(error) or f"no answer within {PATIENCE:.0f}s"


@asynccontextmanager
async def _connector(way: Way) -> AsyncIterator[aiohttp.UnixConnector | None]:
    """Connect through a descriptor of the directory: its path may be longer than a socket's may be."""
    if way.directory is None:
        yield None
        return
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        folder = await anyio.to_thread.run_sync(os.open, way.directory, flags)
    except OSError as error:
        raise CannotControl(f"cannot reach the run at {way.directory}: {error.strerror}") from error
    try:
        yield aiohttp.UnixConnector(f"/proc/self/fd/{folder}/{SOCKET}")
    finally:
        os.close(folder)
