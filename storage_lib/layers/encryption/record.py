"""The record: what stands in the metadata of an encrypted object, and binds the object to them.

It is the value of ``aos-encrypted``, in URL-safe base64 without padding::

      0   1  form of the record: 1, or 2 once the metadata have been changed
      1   1  length n of the key id
      2   n  key id
    2+n  32  salt
   34+n  32  commitment
   66+n  11  in form 2 only: the number of the record, random
     …       sealed: flags, 1 byte (1: size and SHA-256 in the metadata are those of an outer layer;
             2: there is a SHA-256); size of the plaintext, 8 bytes big-endian; its SHA-256 or that of the
             outer layer's caller, 32 bytes; its Content-Encoding, ASCII; a tag of 16 bytes

It is sealed with the key of the chunks and a nonce: its number (11 x 0 in form 1), 2. So the metadata of an
envelope can be changed and sealed anew: of 2^30 records, two have the same number with a probability of
2^-29. Associated data are the content type and the names and values of the stored metadata, sorted by name,
each behind its length. What layers inside this one add is left out. A SHA-256 is a fingerprint of the
plaintext, and a Content-Encoding would be taken for that of the ciphertext: both are stored here alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace

from storage_lib import base64url
from storage_lib.errors import IntegrityError
from storage_lib.layers.encryption.envelope import (
    NUMBER_BYTES,
    OBJECT,
    Cipher,
    Envelopes,
    Header,
    changed,
    fields,
    plain_size,
)
from storage_lib.patterns import pattern
from storage_lib.ports import hidden
from storage_lib.ports.kept_headers import METADATA
from storage_lib.ports.object_model import ObjectInfo

_ENCODING = METADATA["Content-Encoding"]
_SHA256 = pattern(r"[0-9a-f]{64}")
_SHORT_ASCII = pattern(r"[ -~]{1,64}")
_OF_THE_STORE = hidden.ADDED_BELOW | {hidden.ENCRYPTED}
_RENEWED = 2
_OF_OUTER = 1
_HAS_SHA256 = 2
_SEALED_BYTES = 41
"""Flags, size and checksum; the rest is the Content-Encoding."""


def clear(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is stored as it is, of the metadata of a save."""
    kept = dict(metadata)
    for name in (hidden.CHECKSUM, _ENCODING):
        if name in kept and _is_moved(name, kept[name]):
            del kept[name]
    return kept


def _is_moved(name: str, value: str) -> bool:
    if name == hidden.CHECKSUM:
        return _SHA256.fullmatch(value) is not None
    return name == _ENCODING and _SHORT_ASCII.fullmatch(value) is not None


def described(
    cipher: Cipher, content_type: str, metadata: Mapping[str, str], size: int, sha256: str
) -> dict[str, str]:
    """The metadata to store.

    :param metadata: those of the save. :param size: and :param sha256: of the plaintext.
    """
    stored = clear(metadata)
    flags = 0
    if hidden.SIZE in metadata:
        flags, sha256 = _OF_OUTER, "" if hidden.CHECKSUM in stored else metadata.get(hidden.CHECKSUM, "")
    else:
        stored[hidden.SIZE] = str(size)
    if sha256:
        flags |= _HAS_SHA256
    encoding = "" if _ENCODING in stored else metadata.get(_ENCODING, "")
    content = bytes((flags,)) + size.to_bytes(8, "big") + (bytes.fromhex(sha256) or bytes(32))
    sealed = cipher.seal(content + encoding.encode(), _bound(content_type, stored))
    stored[hidden.ENCRYPTED] = _text(cipher.header, sealed)
    return stored


def _text(header: Header, sealed: bytes, number: bytes = b"") -> str:
    form, key_id = _RENEWED if number else OBJECT, header.key_id.encode()
    record = bytes((form, len(key_id))) + key_id + header.salt + header.commitment + number + sealed
    return base64url.encoded(record)


async def renewed(envelopes: Envelopes, info: ObjectInfo, metadata: Mapping[str, str]) -> dict[str, str]:
    """``metadata``, to be stored with the envelope ``info`` instead of its own, and a record that binds them.

    :raises IntegrityError: what is stored is not what was stored with this object.
    """
    cipher, content = await _unsealed(envelopes, info)
    number = secrets.token_bytes(NUMBER_BYTES)
    sealed = cipher.seal(content, _bound(info.content_type, metadata), number)
    return {**metadata, hidden.ENCRYPTED: _text(cipher.header, sealed, number)}


async def opened(envelopes: Envelopes, info: ObjectInfo) -> tuple[ObjectInfo, Cipher]:
    """What a store knows of an encrypted object, as it was given to the layer, and the cipher of its chunks.

    :param info: has a record.
    :raises IntegrityError: it is not what was stored with this object.
    """
    cipher, content = await _unsealed(envelopes, info)
    size = int.from_bytes(content[1:9], "big")
    if size != plain_size(info.size):
        raise IntegrityError(
            f"object {info.key!r} was cut off or has grown: it has {info.size} bytes, which is not the size"
            f" of {size} bytes encrypted",
            field="key",
            remedy="restore the object from a backup or an earlier version",
        )
    flags = content[0]
    sha256 = content[9:_SEALED_BYTES].hex() if flags & _HAS_SHA256 else None
    metadata = {name: value for name, value in info.metadata.items() if name not in _OF_THE_STORE}
    if flags & _OF_OUTER:
        if sha256 is not None:
            metadata[hidden.CHECKSUM], sha256 = sha256, None
    else:
        metadata.pop(hidden.SIZE, None)
    if encoding := content[_SEALED_BYTES:]:
        metadata[_ENCODING] = encoding.decode("ascii")
    return replace(info, size=size, sha256=sha256, metadata=metadata, authenticated=True), cipher


async def _unsealed(envelopes: Envelopes, info: ObjectInfo) -> tuple[Cipher, bytes]:
    header, number, sealed = _read(info.key, info.metadata[hidden.ENCRYPTED])
    cipher = await envelopes.resume(header, info.key)
    return cipher, cipher.unseal(sealed, _bound(info.content_type, info.metadata), number)


def key_id_of(info: ObjectInfo) -> str | None:
    """The id of the key that an object was encrypted with; None if it is not encrypted.

    :raises IntegrityError: its record is damaged.
    """
    text = info.metadata.get(hidden.ENCRYPTED)
    return None if text is None else _read(info.key, text)[0].key_id


def _read(key: str, text: str) -> tuple[Header, bytes, bytes]:
    """The header of the envelope, the number of the record, and what is sealed."""
    try:
        record = base64url.decoded(text)
        if base64url.encoded(record) != text:
            raise changed(key)  # Unused bits of the last character are set.
        length = record[1]
        key_id = record[2 : 2 + length].decode("ascii")
    except (ValueError, IndexError) as error:
        raise changed(key) from error
    salt, commitment = record[2 + length : 34 + length], record[34 + length : 66 + length]
    header = Header.read(bytes(Header(OBJECT, key_id, salt, commitment)))
    if header is None or record[0] not in (OBJECT, _RENEWED):
        raise changed(key)
    rest = record[66 + length :]
    if record[0] == OBJECT:
        return header, bytes(NUMBER_BYTES), rest
    return header, rest[:NUMBER_BYTES], rest[NUMBER_BYTES:]


def _bound(content_type: str, stored: Mapping[str, str]) -> bytes:
    texts = [content_type]
    for name in sorted(stored):
        if name not in _OF_THE_STORE:
            texts += (name, stored[name])
    return fields(*[text.encode() for text in texts])
