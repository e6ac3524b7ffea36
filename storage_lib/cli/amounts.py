"""Durations, sizes, metadata and other arguments as people type them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def duration(text: str) -> float:
    """Seconds in a text such as ``90``, ``15m``, ``1h30m`` or ``7d``."""
    compact = text.replace(" ", "").lower()
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", compact):
        return float(compact)
    if re.fullmatch(r"(\d{1,9}[smhdw])+", compact):
        return float(sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+)([smhdw])", compact)))
    raise typer.BadParameter(f"{text!r} is no duration; write 90 (seconds), 15m, 1h30m, 7d or 2w")


def span(text: str) -> timedelta:
    """Like `duration`."""
    try:
        return timedelta(seconds=duration(text))
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long") from None


def moment(text: str | None, option: str) -> datetime | None:
    """A time such as ``2026-11-25T03:00:00Z``, in UTC unless it says otherwise, or the one that lies ``2h``
    back."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - span(text)
        except (typer.BadParameter, OverflowError):
            raise typer.BadParameter(
                f"{text!r} is no time; write 2026-11-25, 2026-11-25T03:00:00Z or 2h", param_hint=option
            ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def byte_count(text: str) -> int:
    """Bytes in a text such as ``4096``, ``64K`` or ``1.5GiB``; units are powers of 1,024."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(i?b)?", text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size; write 4096, 64K, 10M or 1.5G")
    return int(float(found[1]) * _BYTES[found[2]])


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """The dict of texts ``NAME=VALUE``."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found


def json_value(text: str, name: str) -> Any:
    """The value of a JSON text; ``@FILE`` and ``-`` read it from a file and from stdin."""
    from pathlib import Path

    import msgspec

    if text == "-":
        from storage_lib.cli.local_files import all_of_stdin

        data = all_of_stdin()
    elif text.startswith("@"):
        data = Path(text[1:]).read_bytes()
    else:
        data = text.encode(errors="surrogateescape")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"this is no JSON: {error}", param_hint=name) from None


def folder(prefix: str) -> str:
    """The prefix of a folder's keys: ``models`` and ``models/`` both mean ``models/``; empty means all."""
    return prefix if prefix.endswith("/") or not prefix else prefix + "/"
