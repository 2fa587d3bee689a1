"""Keys, JWTs and certificates for throw-away servers, made on the spot."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys

_LIMITS = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
_JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


class Key:
    """An NKey pair; `prefix` says for whom."""

    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), prefix).decode()
        self.pair = nkeys.from_seed(self.seed.encode())
        self.public = self.pair.public_key.decode()

    def jwt(self, subject: str, name: str, claims: dict[str, Any], **more: Any) -> str:
        """Return a NATS JWT (version 2) about `subject`, signed with this key."""
        body = {
            "jti": uuid.uuid4().hex,
            "iat": int(time.time()),
            "iss": self.public,
            "name": name,
            "sub": subject,
        }
        parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, body | more | {"nats": claims | {"version": 2}}]
        text = ".".join(_encode(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_encode(self.pair.sign(text.encode()))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def user_key() -> Key:
    return Key(nkeys.PREFIX_BYTE_USER)


class Operator:
    """An operator with one account (JetStream on) and a system account."""

    def __init__(self) -> None:
        self.key = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self.account, self.system = Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def config(self) -> str:
        """What a server must be told."""
        limits = {**_LIMITS, "wildcards": True}
        accounts = {
            key.public: self.key.jwt(key.public, name, {"limits": limits | more, "type": "account"})
            for key, name, more in ((self.account, "APP", _JETSTREAM), (self.system, "SYS", {}))
        }
        preload = "\n".join(f"{public}: {jwt}" for public, jwt in accounts.items())
        operator = self.key.jwt(self.key.public, "operator", {"type": "operator"})
        return (
            f"operator: {operator}\nsystem_account: {self.system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}"
        )

    def creds(self, *, seconds: float | None = None) -> str:
        """Return a credentials file of a new user of the account, good for so many seconds."""
        user = user_key()
        more = {} if seconds is None else {"exp": int(time.time() + seconds)}
        jwt = self.account.jwt(
            user.public,
            "soak",
            {"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1},
            **more,
        )
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority of our own, of a server on 127.0.0.1 and of a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(directory: Path) -> Certificates:
    directory.mkdir()

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    for name, extension in (
        ("server", "subjectAltName=IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        signed = (
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-addext",
            extension,
            "-addext",
            "basicConstraints=CA:FALSE",
        )
        run(
            "req",
            "-x509",
            *new,
            *signed,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
            "-subj",
            f"/CN={name}",
        )
    files = [directory / file for file in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")]
    return Certificates(*files)
