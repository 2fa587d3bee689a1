"""A small client of a Docker engine for tests, and what they name their containers and images."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import tarfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

LABEL = os.environ.get("SOAKD_TEST_LABEL") or f"soakd.test-{uuid.uuid4().hex[:8]}"
"""What this session's containers, networks and volumes carry. On a user's engine there may be those of another session."""
NAME = LABEL.replace(".", "-")
"""What the names of its images begin with."""
SHELL = f"{NAME}-shell"
PATIENCE = 60.0
APPLETS = (
    "sh",
    "sleep",
    "seq",
    "dd",
    "cat",
    "tr",
    "kill",
    "nc",
    "ip",
    "head",
    "printf",
    "test",
    "touch",
    "rm",
)


def reached(url: str) -> str | tuple[str, int]:
    """Return what a socket connects to: the path of `unix://`, host and port of `tcp://`. ValueError: it is neither."""
    place = urlsplit(url)
    if place.scheme == "unix" and place.path and not place.netloc:
        return place.path
    if place.scheme == "tcp" and place.hostname and place.port:
        return place.hostname, place.port
    raise ValueError(f"{url} is neither unix:///PATH nor tcp://HOST:PORT")


class _Connection(http.client.HTTPConnection):
    def __init__(self, url: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._reached = reached(url)

    def connect(self) -> None:
        if isinstance(self._reached, tuple):
            self.sock = socket.create_connection(self._reached, self.timeout)
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._reached)


class Client:
    """Calls to an engine, one after the other; blocks, as tests may."""

    def __init__(self, url: str, label: str = LABEL) -> None:
        """`label`: what marks that which `clean` removes."""
        self.url, self.label = url, label
        self._made: set[str] = set()

    def call(self, method: str, path: str, body: Any = None, **params: object) -> Any:
        connection = _Connection(self.url, PATIENCE)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
            kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
            query = f"?{urlencode(params)}" if params else ""
            connection.request(method, f"/{path}{query}", data, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            return text

    def create(
        self,
        name: str,
        command: list[str] | str,
        labels: Mapping[str, str] | None = None,
        *,
        init: bool = True,
        host: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> str:
        """Create a container with a shell in it; it is removed after the test. Without seccomp it starts a sixth sooner."""
        settings = {
            "Image": SHELL,
            "Cmd": ["sh", "-c", command] if isinstance(command, str) else command,
            "Labels": {LABEL: "true", self.label: "true", **(labels or {})},
            "HostConfig": {
                "Init": init,
                "NetworkMode": "none",
                "SecurityOpt": ["seccomp=unconfined"],
                **(host or {}),
            },
            **config,
        }
        made: str = self.call("POST", "containers/create", settings, name=name)["Id"]
        self._made.add(name)
        return made

    def start(self, name: str) -> None:
        self.call("POST", f"containers/{name}/start")

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"containers/{name}/json")
        return found

    def state(self, name: str) -> str:
        return str(self.inspect(name)["State"]["Status"])

    def end(self, *names: str) -> None:
        """Let SIGKILL end what runs in these containers, as a crash would. Here the engine belongs to somebody, whose machine's processes
        are none of ours: a container's own shell kills all but its process 1, `init`, which ends with the code of that.
        """
        kill = {"Cmd": ["sh", "-c", "kill -KILL -1"]}
        execs = [self.call("POST", f"containers/{name}/exec", kill)["Id"] for name in names]
        for one in execs:
            self.call("POST", f"exec/{one}/start", {"Detach": True})

    def remove(self, name: str) -> None:
        self.call("DELETE", f"containers/{quote(name)}", force=1, v=1)

    def clean(self) -> list[str]:
        """Remove everything that this session made but images; return the locks that code of ours left, which it should not."""
        marked = json.dumps({"label": [self.label]})
        for container in self.call("GET", "containers/json", all=1, filters=marked):
            self._made |= {name.removeprefix("/") for name in container["Names"]}
            with suppress(RuntimeError):
                self.remove(container["Id"])
        for network in self.call("GET", "networks", filters=marked):
            self.call("DELETE", f"networks/{network['Id']}")
        for volume in self.call("GET", "volumes", filters=marked)["Volumes"] or []:
            self.call("DELETE", f"volumes/{volume['Name']}")
        locks = self.call("GET", "volumes", filters=json.dumps({"label": ["soakd.lock"]}))["Volumes"] or []
        left = self._ours(locks)
        for name in left:
            self.call("DELETE", f"volumes/{name}")
        return left

    def clean_up(self) -> None:
        """Remove the images of this session, too: it is over."""
        self.clean()
        for image in self.call("GET", "images/json", filters=json.dumps({"reference": [f"{NAME}-*"]})):
            for tag in image["RepoTags"]:
                self.call("DELETE", f"images/{tag}", force=1)

    def clear(self) -> None:
        """Remove all containers and networks of an engine that is the tests' own, whoever made them."""
        for container in self.call("GET", "containers/json", all=1):
            with suppress(RuntimeError):
                self.remove(container["Id"])
        for network in self.call("GET", "networks", filters=json.dumps({"type": ["custom"]})):
            self.call("DELETE", f"networks/{network['Id']}")

    def _ours(self, locks: list[dict[str, Any]]) -> list[str]:
        """Say which locks are on units of this session, or for taking those over: a soak of the user's may have others."""
        ours = {f"soakd-lock-{name}" for name in self._made}
        ours |= {
            f"soakd-takeover-{lock['Labels'].get('soakd.mark')}" for lock in locks if lock["Name"] in ours
        }
        return [lock["Name"] for lock in locks if lock["Name"] in ours]

    def answers(self) -> bool:
        with suppress(OSError, RuntimeError, http.client.HTTPException):
            self.call("GET", "_ping")
            return True
        return False

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            assert time.monotonic() < deadline, f"no engine answers at {self.url}"
            time.sleep(0.02)

    def import_shell(self) -> None:
        """Make the image of one static busybox."""
        busybox = shutil.which("busybox")
        assert busybox, "see `no_shell`"
        self._import(SHELL, busybox, "bin/busybox", [f"bin/{applet}" for applet in APPLETS])

    def import_program(self, program: Path, image: str) -> None:
        """Make an image of one static program, which is /NAME in it."""
        self._import(image, str(program), program.name, [])

    def _import(self, image: str, program: str, name: str, links: list[str]) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.add(program, name)
            for one in links:
                link = tarfile.TarInfo(one)
                link.type, link.linkname = tarfile.SYMTYPE, Path(name).name
                tar.addfile(link)
            for folder in ("tmp", "dev", "proc", "sys"):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o777
                tar.addfile(entry)
        self.call("POST", "images/create", data.getvalue(), fromSrc="-", repo=image)
