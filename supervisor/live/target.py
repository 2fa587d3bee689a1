"""What is to be watched: a soak file, an address, or the one run of this host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pydantic

from supervisor.broker.options import Broker
from supervisor.journal.runs import RunIndex
from supervisor.live.sources import CannotWatch, Source, open_broker, open_run

ENDPOINT: Final = "endpoint"
"""The file of a run directory that has the URL of the run's endpoint, as long as it is open."""
USER: Final = "SOAKD_NATS_USER"
PASSWORD: Final = "SOAKD_NATS_PASSWORD"  # noqa: S105  # the name of the variable

Opened = AbstractAsyncContextManager[Source]


def target(what: str | None, buckets: tuple[str, ...], index: RunIndex, env: Mapping[str, str]) -> Opened:
    """Return what opens the source.

    SoakFileError or CannotWatch if there is nothing to watch, NotRunning if the broker is embedded and no run has it at present.
    """
    if what is None:
        return open_run(_only_run(index))
    if re.match(r"https?://", what):
        return open_run(_endpoint(what))
    if re.match(r"(nats|tls)://", what):
        return open_broker(what, _broker(what, buckets, env))
    if "://" in what:
        raise CannotWatch(f"cannot watch {what}: expected a soak file, http://HOST:PORT or nats://HOST:PORT")
    return _soak_file(Path(what), buckets, index)


def _soak_file(path: Path, buckets: tuple[str, ...], index: RunIndex) -> Opened:
    """A run of the soak that goes on, else its broker."""
    # All kinds there are come along with these, which takes as long as everything else a viewer needs.
    from supervisor.soakfile.load import load  # noqa: PLC0415
    from supervisor.soakfile.running import load_running  # noqa: PLC0415

    soak = load(path).soak
    for directory in index.living(soak.soak):
        if url := _url(directory):
            return open_run(url)
    if soak.broker is None:
        raise CannotWatch(f"{path}: broker: there is no such section, and no run of {soak.soak} goes on")
    broker = load_running(path, index).soak.broker
    assert broker is not None  # noqa: S101  # the same file
    return open_broker(str(path), _with_buckets(broker, buckets))


def _only_run(index: RunIndex) -> str:
    runs = {directory: url for directory in index.living() if (url := _url(directory))}
    if len(runs) == 1:
        return next(iter(runs.values()))
    if not runs:
        raise CannotWatch(
            "no run goes on here: say what to watch with `soakd watch FILE`, http://HOST:PORT or nats://HOST:PORT"
        )
    listed = "".join(f"\n  soakd watch {url}  {directory}" for directory, url in runs.items())
    raise CannotWatch(f"{len(runs)} runs go on here; say which one to watch:{listed}")


def _url(directory: Path) -> str | None:
    try:
        return (directory / ENDPOINT).read_text().strip() or None
    except OSError:  # it has not opened its endpoint yet, or is about to end
        return None


def _endpoint(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise CannotWatch(f"cannot watch {text}: {error}") from error
    if "@" in url.netloc:
        raise CannotWatch("cannot watch a run with credentials in its address: an endpoint has none")
    if not url.hostname or port is None or url.path.rstrip("/") not in {"", "/status"}:
        raise CannotWatch(f"cannot watch {text}: expected the endpoint of a run, http://HOST:PORT")
    return f"{url.scheme}://{url.netloc}"


def _broker(url: str, buckets: tuple[str, ...], env: Mapping[str, str]) -> Broker:
    section = {"servers": url, "user": env.get(USER), "password": env.get(PASSWORD)}
    try:
        return _with_buckets(Broker.model_validate(section), buckets)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        said = str(first["msg"]).removeprefix("Value error, ")
        if "servers" not in first["loc"]:
            said = f"{said} ({USER} and {PASSWORD} in the environment)"
        shown = url.rpartition("@")[2]  # what stands before it may be a password
        raise CannotWatch(f"cannot watch {shown}: {said}") from error


def _with_buckets(broker: Broker, buckets: tuple[str, ...]) -> Broker:
    if not buckets:
        return broker
    try:
        named = type(broker.monitor).model_validate({"buckets": buckets}).buckets
    except pydantic.ValidationError as error:
        raise CannotWatch(
            f"--bucket: {str(error.errors()[0]['msg']).removeprefix('Value error, ')}"
        ) from error
    return broker.model_copy(update={"monitor": broker.monitor.model_copy(update={"buckets": named})})
