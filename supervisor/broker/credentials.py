"""From options to the arguments of a client's `connect`. It reads files, so it runs in a worker thread."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any, Final

from nats.aio.client import RawCredentials

from supervisor.broker.options import Options, Tls

_SEED: Final = "SU[A-Z2-7]{56}"
_CREDS: Final = re.compile(
    rf"BEGIN NATS USER JWT-+\s+\S+\.\S+\.\S+\s.*BEGIN USER NKEY SEED-+\s+{_SEED}\s", re.DOTALL
)


class CredentialsError(Exception):
    """A file that a connection needs cannot be used."""


def arguments(options: Options) -> dict[str, Any]:
    """Return who we are and how we speak, as `connect` wants it; CredentialsError names the file that cannot be used."""
    found: dict[str, Any] = {"servers": list(options.servers)}
    if options.user is not None and options.password is not None:
        found |= {"user": options.user, "password": options.password.get_secret_value()}
    if options.token is not None:
        found["token"] = options.token.get_secret_value()
    if options.creds is not None:
        text = _read(options.creds, "creds")
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            raise CredentialsError(
                f"cannot use creds {options.creds}: expected a user's JWT and NKey seed in it"
            )
        found["user_credentials"] = RawCredentials(text)
    if options.nkey is not None:
        seed = _read(options.nkey, "nkey").strip()
        if not re.fullmatch(_SEED, seed):
            raise CredentialsError(
                f"cannot use nkey {options.nkey}: expected a user's seed, 58 letters and digits that begin with SU"
            )
        found["nkeys_seed_str"] = seed
    if options.tls is not None:
        found |= {"tls": _context(options.tls), "tls_handshake_first": options.tls.handshake_first}
        if options.tls.hostname is not None:
            found["tls_hostname"] = options.tls.hostname
    if options.inbox_prefix is not None:
        found["inbox_prefix"] = options.inbox_prefix
    return found


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"cannot read {what} {path}: {_reason(error)}") from error


def _context(tls: Tls) -> ssl.SSLContext:
    for path in (tls.ca, tls.cert, tls.key):
        if path is not None:
            _read(path, "tls")  # OpenSSL's own messages do not name the file
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except ssl.SSLError as error:
        files = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path is not None)
        raise CredentialsError(
            f"cannot use tls {files}: expected PEM files that fit together ({error})"
        ) from error
    return context


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
