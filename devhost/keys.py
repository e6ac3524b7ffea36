"""Host keys, as Functions asks for them: in ``x-functions-key`` or in ``?code=``."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from devhost.errors import DevhostError
from devhost.private import close

FILE_NAME = "devhost-keys.json"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The host key opens functions of level ``function``, the master key also those of ``admin``."""

    host: str
    master: str
    new: bool = False
    """Whether they were made by this start; only then are they shown."""

    def admits(self, auth_level: str, offered: str | None) -> bool:
        """Whether this key opens a function of this level; compared in constant time and, as on the platform,
        without regard to case."""
        if auth_level == "anonymous":
            return True
        accepted = (self.master,) if auth_level == "admin" else (self.host, self.master)
        presented = (offered or "").lower().encode("utf-8", "surrogateescape")
        # A list, so that every comparison runs and the time does not tell which key was right.
        return any([hmac.compare_digest(presented, key.lower().encode()) for key in accepted])  # noqa: C419


def load_or_create(data: Path) -> HostKeys:
    """The keys of a data folder, made on first use and readable by its owner only.

    :raises DevhostError: the file is there but is not what was written, or cannot be written.
    """
    path = data / FILE_NAME
    made = HostKeys(secrets.token_urlsafe(40), secrets.token_urlsafe(40), new=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": made.host, "master": made.master}, file)
        return made
    except FileExistsError:
        pass
    except OSError as error:
        raise DevhostError(f"{path} cannot be written: {error.strerror}") from error
    close(path)  # copied, or unpacked, it may have become readable
    try:
        stored = json.loads(path.read_text())
        keys = HostKeys(str(stored["host"]), str(stored["master"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DevhostError(f"{path} cannot be read; remove it to have new keys made") from error
    if min(len(keys.host), len(keys.master)) < 16:
        raise DevhostError(f"{path} holds a key that is too short; remove it to have new keys made")
    return keys
