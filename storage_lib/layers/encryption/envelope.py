"""The envelope: how bytes are encrypted, to the byte. docs/layers.md describes it; it never changes.

::

    header | chunk 0 | chunk 1 | … | last chunk

    header, 106 bytes:
      0   8  "AOSENC1\\n"
      8   1  form: 1 an object, 2 a value on its own
      9   1  length of the key id
     10  32  key id, padded with zeros
     42  32  salt, random
     74  32  commitment to the key

A chunk is 65,536 bytes of plaintext (the last one has 1 to 65,536; that of an empty plaintext none),
encrypted with AES-256-GCM, and a tag of 16 bytes. Its nonce is its number, 11 bytes big-endian, and a byte
that is 1 for the last chunk and else 0: the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015),
laid out as in age. A chunk that is moved, repeated, dropped or cut off does not authenticate.

The key of the chunks is derived, for this envelope alone, by HKDF-SHA256 (RFC 5869) from a key of the ring
and the salt, as in Tink's AES-GCM-HKDF streaming and the AWS Encryption SDK. Its info has the form, the key
id, the context of the store and the name of the object, so the bytes decrypt nowhere else. No nonce is used
twice with a key, however many envelopes there are: after 2^40 of them, two salts of 256 bits agree with a
probability of 2^-177. With random nonces, the key itself would be safe for 2^32 (NIST SP 800-38D, 8.3).

The commitment is derived likewise, without context and name. It tells a wrong key from changed bytes, and
nobody can make an envelope that two keys decrypt, which AES-GCM alone does not rule out.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage_lib import threads
from storage_lib.errors import EncryptionError, IntegrityError
from storage_lib.layers.encryption.keys import Key, KeyRing

Bytes = bytes | memoryview

MAGIC: Final = b"AOSENC1\n"
OBJECT: Final = 1
VALUE: Final = 2
CHUNK_BYTES: Final = 65_536
TAG_BYTES: Final = 16
SEALED_BYTES: Final = CHUNK_BYTES + TAG_BYTES
HEADER_BYTES: Final = 106
NUMBER_BYTES: Final = 11
"""Of a nonce, all but its last byte."""

_ID_BYTES = 32
_SALT_BYTES = 32
AT_ONCE: Final = 16
"""As many chunks are encrypted on the event loop in one go (0.1 ms); more are in a thread, or take turns."""
_CHUNKS = b"agent storage encryption 1: chunks"
_COMMITMENT = b"agent storage encryption 1: commitment"


class Header(NamedTuple):
    """What begins an envelope."""

    form: int
    key_id: str
    salt: bytes
    commitment: bytes

    def __bytes__(self) -> bytes:
        key_id = self.key_id.encode()
        start = MAGIC + bytes((self.form, len(key_id))) + key_id.ljust(_ID_BYTES, b"\0")
        return start + self.salt + self.commitment

    @classmethod
    def read(cls, data: bytes) -> Header | None:
        """The header at the start of ``data``; None if there is none."""
        length = data[9] if len(data) >= HEADER_BYTES and data.startswith(MAGIC) else 0
        if not 1 <= length <= _ID_BYTES:
            return None
        try:
            header = cls(data[8], data[10 : 10 + length].decode("ascii"), data[42:74], data[74:106])
        except UnicodeDecodeError:
            return None
        return header if bytes(header) == data[:HEADER_BYTES] else None


def stored_size(size: int) -> int:
    """The size of the envelope of ``size`` bytes."""
    return HEADER_BYTES + size + TAG_BYTES * max(1, -(-size // CHUNK_BYTES))


def plain_size(stored: int) -> int | None:
    """The size of what is in an envelope of ``stored`` bytes; None if none has that size."""
    whole, rest = divmod(stored - HEADER_BYTES, SEALED_BYTES)
    if whole < 0:
        return None
    if rest == 0:
        return whole * CHUNK_BYTES or None
    if rest > TAG_BYTES or (rest == TAG_BYTES and whole == 0):
        return whole * CHUNK_BYTES + rest - TAG_BYTES
    return None


class Cipher:
    """Encrypts or decrypts the chunks of one envelope, which its ``header`` begins."""

    __slots__ = ("_aead", "header", "name")

    def __init__(self, header: Header, name: str, key: bytes) -> None:
        self.header = header
        self.name = name
        self._aead = AESGCM(key)

    def encrypt(self, chunks: Sequence[Bytes], first: int, *, ends: bool) -> list[bytes]:
        """The chunks with these plaintexts, number ``first`` and following.

        :param ends: the last of all is among them.
        """
        last = first + len(chunks) - 1 if ends else -1
        encrypt = self._aead.encrypt
        return [encrypt(_nonce(n, n == last), chunk, None) for n, chunk in enumerate(chunks, first)]

    def decrypt(self, chunks: Sequence[Bytes], first: int, last: int) -> list[bytes]:
        """The plaintexts of chunks, number ``first`` and following; ``last`` is the last of all.

        :raises IntegrityError: they are not what was encrypted.
        """
        decrypt = self._aead.decrypt
        try:
            return [decrypt(_nonce(n, n == last), chunk, None) for n, chunk in enumerate(chunks, first)]
        except InvalidTag as error:
            raise changed(self.name) from error

    def seal(self, data: bytes, bound: bytes, number: bytes = bytes(NUMBER_BYTES)) -> bytes:
        """Seal ``data``, once an envelope at most for each ``number``."""
        return self._aead.encrypt(number + _BESIDE, data, bound)

    def unseal(self, data: bytes, bound: bytes, number: bytes = bytes(NUMBER_BYTES)) -> bytes:
        """:raises IntegrityError: ``data``, ``bound`` or ``number`` is not what was sealed."""
        try:
            return self._aead.decrypt(number + _BESIDE, data, bound)
        except InvalidTag as error:
            raise changed(self.name) from error


_BESIDE = b"\2"
"""How the nonce of what is sealed beside the chunks ends; theirs end in 0 or 1."""


def _nonce(number: int, is_last: bool) -> bytes:
    return (number << 8 | is_last).to_bytes(NUMBER_BYTES + 1, "big")


class Envelopes:
    """Makes and opens the envelopes of a store.

    :param context: names the store, see `EncryptionOptions`.
    """

    def __init__(self, ring: KeyRing, context: str = "") -> None:
        self.ring = ring
        self._context = context.encode()

    async def begin(self, name: str, form: int = OBJECT) -> Cipher:
        """The cipher of a new envelope with this name, with the current key."""
        key = await self.ring.current()
        salt = secrets.token_bytes(_SALT_BYTES)
        extracted = key.extract(salt)
        header = Header(form, key.id, salt, _commitment(extracted, form, key))
        return Cipher(header, name, self._derived(extracted, header, name))

    async def resume(self, header: Header, name: str) -> Cipher:
        """The cipher of an envelope that is there.

        :raises EncryptionError: its key is not in the key ring, or another has its id.
        """
        key = await self.ring.find(header.key_id)
        if key is None:
            raise EncryptionError(
                f"object {name!r} is encrypted with the key {header.key_id!r}, which is not in the key ring",
                field="key",
                remedy=f"add {header.key_id!r} to AGENT_STORAGE_ENCRYPTION_KEYS, behind the current key",
            )
        extracted = key.extract(header.salt)
        if not hmac.compare_digest(_commitment(extracted, header.form, key), header.commitment):
            raise EncryptionError(
                f"object {name!r} was encrypted with another key than the one that has the id"
                f" {header.key_id!r} here, or what begins it has been changed",
                field="key",
                remedy="give each key an id of its own, and never another key the same id; else restore the"
                " object from a backup",
            )
        return Cipher(header, name, self._derived(extracted, header, name))

    async def seal(self, data: bytes, name: str, form: int = VALUE) -> bytes:
        """The envelope of ``data``."""
        return await encrypted(await self.begin(name, form), data)

    async def unseal(self, envelope: bytes, name: str, form: int = VALUE) -> bytes:
        """What is in an envelope of this name and form.

        :raises IntegrityError: it is not one, or not as it was made.
        """
        header = Header.read(envelope)
        if header is None or header.form != form:
            raise changed(name)
        return await decrypted(await self.resume(header, name), envelope)

    def _derived(self, extracted: bytes, header: Header, name: str) -> bytes:
        return _expand(
            extracted, _info(_CHUNKS, header.form, header.key_id, self._context) + fields(name.encode())
        )


async def encrypted(cipher: Cipher, data: bytes) -> bytes:
    """The envelope of ``data``, made in a thread if there is much to do."""
    if len(data) <= CHUNK_BYTES:
        return bytes(cipher.header) + cipher.encrypt((data,), 0, ends=True)[0]
    chunks = pieces(data, CHUNK_BYTES)

    def made() -> bytes:
        return b"".join([bytes(cipher.header), *cipher.encrypt(chunks, 0, ends=True)])

    return made() if len(chunks) <= AT_ONCE else await threads.working.run(made)


async def decrypted(cipher: Cipher, envelope: bytes) -> bytes:
    """What is in an envelope. :raises IntegrityError: it is not as it was made."""
    if plain_size(len(envelope)) is None or not envelope.startswith(bytes(cipher.header)):
        raise changed(cipher.name)
    sealed = memoryview(envelope)[HEADER_BYTES:]
    return await decrypted_span(cipher, sealed, 0, last_chunk(len(envelope)), 0, len(envelope))


async def decrypted_span(cipher: Cipher, sealed: Bytes, first: int, last: int, skip: int, size: int) -> bytes:
    """``size`` bytes, or all that there are, behind the ``skip`` first ones in the ``sealed`` chunks, number
    ``first`` and following; made in a thread if there is much to do.

    :raises IntegrityError: the chunks are not what was encrypted.
    """
    chunks = pieces(sealed, SEALED_BYTES)

    def made() -> bytes:
        plain = cipher.decrypt(chunks, first, last)
        plain[0] = plain[0][skip:]
        if (beyond := sum(map(len, plain)) - size) > 0:
            plain[-1] = plain[-1][:-beyond]
        return b"".join(plain)

    return made() if len(chunks) <= AT_ONCE else await threads.working.run(made)


def last_chunk(stored: int) -> int:
    """The number of the last chunk of an envelope of ``stored`` bytes."""
    return (stored - HEADER_BYTES - 1) // SEALED_BYTES


def pieces(data: Bytes, size: int) -> list[Bytes]:
    """``data`` in pieces of ``size``, the last one shorter."""
    view = memoryview(data)
    return [view[start : start + size] for start in range(0, len(view), size)]


def fields(*parts: bytes) -> bytes:
    """The parts as one text that no other parts make: each behind its length, 4 bytes big-endian."""
    return b"".join([each for part in parts for each in (len(part).to_bytes(4, "big"), part)])


def _commitment(extracted: bytes, form: int, key: Key) -> bytes:
    return _expand(extracted, _info(_COMMITMENT, form, key.id))


@lru_cache(64)
def _info(purpose: bytes, form: int, key_id: str, *more: bytes) -> bytes:
    """What a key is derived for, the same for all objects of a store."""
    return fields(purpose, bytes((form,)), key_id.encode(), *more)


def _expand(extracted: bytes, info: bytes) -> bytes:
    """HKDF-Expand (RFC 5869, 2.3) to 32 bytes, which is one step of it."""
    return hmac.digest(extracted, info + b"\1", "sha256")


def changed(name: str) -> IntegrityError:
    return IntegrityError(
        f"object {name!r} does not decrypt: its bytes or metadata have been changed, or were moved here from"
        " another key or store",
        field="key",
        remedy="restore the object from a backup or an earlier version, or move it with this library",
    )
