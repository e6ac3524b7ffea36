"""Digests of bodies (RFC 9530, and ``Content-MD5`` of RFC 1864): checked when sent, given when asked for."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Iterator

import azure.functions as func

from functions.headers import header
from storage_lib import threads
from storage_lib.errors import InvalidArgumentError
from storage_lib.patterns import pattern

CONTENT = "Content-Digest"
"""Of the bytes of the message: of an encoded body, or of a part."""
REPRESENTATION = "Repr-Digest"
"""Of the whole object, in the coding in which it is sent."""
_MD5 = "Content-MD5"
_ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_BYTES = pattern(r":([A-Za-z0-9+/]*={0,2}):(?:[ ]*;.*)?")
_WEIGHT = pattern(r"([0-9]{1,2})(?:[ ]*;.*)?")
_INLINE_BYTES = 256 * 1024


class DigestError(InvalidArgumentError):
    """The body is not the one that its sender has digested."""

    code = "digest-mismatch"


def has_digest(req: func.HttpRequest) -> bool:
    """Whether the sender has digested the body."""
    return any(name in req.headers for name in (CONTENT, REPRESENTATION, _MD5))


async def check_digest(req: func.HttpRequest, body: bytes) -> None:
    """Compare a body with every digest that was sent with it; a large one in a thread. Of other algorithms
    than SHA-256 and SHA-512 nothing can be said (RFC 9530, 5).

    :raises DigestError: one is another body's.
    :raises InvalidArgumentError: one is not a digest.
    """
    for name, algorithm, sent in _sent(req):
        _compare(await _digest(algorithm, body), algorithm, sent, name)


async def checked(req: func.HttpRequest, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The parts of a body, which `check_digest` could not hold whole: compared behind the last one."""
    sent = [(*each, _ALGORITHMS.get(each[1], _md5)()) for each in _sent(req)]
    async for part in parts:
        for *_, digest in sent:
            digest.update(part)
        yield part
    for name, algorithm, value, digest in sent:
        _compare(digest.digest(), algorithm, value, name)


def compare_now(req: func.HttpRequest, body: bytes) -> None:
    """`check_digest`, at once."""
    for name, algorithm, sent in _sent(req):
        _compare(_ALGORITHMS.get(algorithm, _md5)(body).digest(), algorithm, sent, name)


def _sent(req: func.HttpRequest) -> Iterator[tuple[str, str, bytes]]:
    """The header, the algorithm and the value of each digest."""
    for name in (CONTENT, REPRESENTATION):
        if (text := header(req, name)) is not None:
            for algorithm, value in _members(text).items():
                if algorithm in _ALGORITHMS:
                    found = _BYTES.fullmatch(value)
                    size = _ALGORITHMS[algorithm]().digest_size
                    yield (
                        name,
                        algorithm,
                        _decoded(name, found[1] if found else "", size, f"{algorithm}=:base64:"),
                    )
    if (text := header(req, _MD5)) is not None:
        yield _MD5, "md5", _decoded(_MD5, text.strip(" \t"), 16, "base64 of 16 bytes")


def wanted(req: func.HttpRequest, name: str) -> str | None:
    """The algorithm that ``Want-Content-Digest`` or ``Want-Repr-Digest`` prefers; None if it asks for none
    that there is.

    :param name: of the digest.
    """
    weights = _weights(header(req, f"Want-{name}") or "")
    best = max(weights, key=lambda each: (weights[each], each == "sha-256"), default=None)
    return best if best is not None and weights[best] > 0 else None


def admits(req: func.HttpRequest, name: str, algorithm: str) -> bool:
    """Whether a digest may be given that was not preferred: nothing was said, or something else."""
    text = header(req, f"Want-{name}")
    return text is None or (wanted(req, name) is not None and _weights(text).get(algorithm, 1) > 0)


def _weights(text: str) -> dict[str, int]:
    return {
        algorithm: int(found[1])
        for algorithm, value in _members(text).items()
        if algorithm in _ALGORITHMS and (found := _WEIGHT.fullmatch(value))
    }


async def digest_of(algorithm: str, data: bytes) -> str:
    """The value of a digest header."""
    return spelled(algorithm, await _digest(algorithm, data))


def spelled(algorithm: str, digest: bytes) -> str:
    return f"{algorithm}=:{base64.b64encode(digest).decode()}:"


async def _digest(algorithm: str, data: bytes) -> bytes:
    make = _ALGORITHMS.get(algorithm, _md5)
    if len(data) <= _INLINE_BYTES:
        return make(data).digest()
    return (await threads.working.run(make, data)).digest()


def _md5(data: bytes = b""):
    return hashlib.md5(data, usedforsecurity=False)  # What the header is made of.


def _compare(found: bytes, algorithm: str, sent: bytes, name: str) -> None:
    if found != sent:
        raise DigestError(
            f"the body has another {algorithm.upper()} than {name} says: it was changed on its way",
            field=name,
            remedy="send it again",
        )


def _members(text: str) -> dict[str, str]:
    """The members of a dictionary of structured fields (RFC 9651), each as it is spelled; of several with one
    name the last counts."""
    pairs = (member.partition("=") for member in text.split(","))
    return {name.strip(" \t"): value.strip(" \t") for name, _, value in pairs}


def _decoded(name: str, text: str, size: int, limit: str) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except ValueError:
        digest = b""
    if len(digest) != size:
        raise InvalidArgumentError(
            f"{name} is no digest",
            field=name,
            limit=limit,
            remedy="encode the digest itself, not its hexadecimal form",
        )
    return digest
