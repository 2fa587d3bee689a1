"""The process of the links: `python -m supervisor.links FD`, FD being its end of the channel to the daemon.

The daemon asks in lines of JSON, one at a time, and each is answered by one line. When the channel ends without a word the daemon is
dead: every link becomes a plain relay at once and goes on as one, until somebody ends the process, which is the last thing that
healing does. `/proc/<pid>/comm` says which of the two it is. Signals meant for the daemon's group do not end it.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from supervisor.links.marks import CONTROLLED, PLAIN
from supervisor.links.relay import Link
from supervisor.links.toxics import decode

AGAIN: Final = 0.2
"""Seconds until a link that could not listen tries again, once the daemon is dead."""


def main(fd: int) -> None:
    """Serve the links until the daemon says that it is over."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _say(CONTROLLED)
    with socket.socket(fileno=fd) as channel:
        channel.setblocking(False)
        anyio.run(Process(channel).run, backend_options={"use_uvloop": True})


def _say(name: str) -> None:
    Path("/proc/self/comm").write_text(name)


class Process:
    """What the daemon may ask."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._links: dict[str, Link] = {}

    async def run(self) -> None:
        """Answer the daemon to its end, or to its order to end."""
        async with anyio.create_task_group() as group:
            async for request in self._requests():
                if request["do"] == "end":
                    group.cancel_scope.cancel()
                    return
                await self._answer(self._act(request, group))
            await self._become_plain()

    async def _become_plain(self) -> None:
        """Take everything off every link, each also if another one cannot listen again just now; say so once all are plain."""
        left = list(self._links.values())
        while left := [link for link in left if not _plain(link)]:  # noqa: ASYNC110  # the kernel does not tell when it can
            await anyio.sleep(AGAIN)
        _say(PLAIN)

    def _act(self, request: dict[str, Any], group: TaskGroup) -> dict[str, Any]:
        try:
            match request.pop("do"):
                case "open":
                    return self._open(group, **request)
                case "put":
                    self._links[request["link"]].put(request["episode"], decode(request["toxic"]))
                case "take":
                    self._take(request["episode"])
                case "kill":
                    link = self._links[request["link"]]
                    return {"killed": link.kill(request["share"], request["seed"])}
                case "look":
                    return {"links": {name: link.look() for name, link in self._links.items()}}
        except OSError as error:
            return {"error": error.strerror or str(error)}
        return {}

    def _open(
        self, group: TaskGroup, *, name: str, fd: int, host: str, port: int, toxics: dict[str, Any]
    ) -> dict[str, Any]:
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
        link = self._links[name] = Link(name, listener, host, port)
        link.change({episode: decode(toxic) for episode, toxic in toxics.items()})
        group.start_soon(link.serve, name=f"link {name}")
        return {}

    def _take(self, episode: str) -> None:
        """Stop what an episode does, on every link, whichever cannot listen again; OSError if one cannot."""
        failures = list[str]()
        for name, link in self._links.items():
            try:
                link.take(episode)
            except OSError as error:
                failures.append(f"{name} cannot listen again: {error.strerror or error}")
        if failures:
            raise OSError("; ".join(failures))

    async def _requests(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the daemon asks, to the end of the channel."""
        held = b""
        while True:
            await anyio.wait_readable(self._channel)
            try:
                data = self._channel.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                yield json.loads(line)

    async def _answer(self, answer: dict[str, Any]) -> None:
        left = json.dumps(answer).encode() + b"\n"
        while left:
            try:
                left = left[self._channel.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._channel)
            except OSError:
                return  # the daemon is gone, which the next look at the channel tells


def _plain(link: Link) -> bool:
    try:
        link.change({})
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]))
