"""Metric families as text: Prometheus' format 0.0.4, and OpenMetrics 1.0."""

from __future__ import annotations

import math
from collections.abc import Iterable

from storage_lib.metrics.families import Family, Labels

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


def exposition(families: Iterable[Family], *, openmetrics: bool = False) -> bytes:
    """The text of these families, of the content type `PROMETHEUS` or `OPENMETRICS`.

    Families of one name are one. What would be there twice, or of two kinds, is left out: readers would
    refuse the whole text.
    """
    merged: dict[str, Family] = {}
    for each in families:
        found = merged.setdefault(each.name, Family(each.name, each.kind, each.unit, each.description))
        if found.kind == each.kind:
            found.samples += each.samples
    lines: list[str] = []
    seen: set[tuple[str, Labels]] = set()
    for family in merged.values():
        lines += _lines(family, openmetrics, seen)
    if openmetrics:
        lines.append("# EOF")
    # Text of other programs may not be valid Unicode.
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def _lines(family: Family, openmetrics: bool, seen: set[tuple[str, Labels]]) -> list[str]:
    name = family.name
    samples: list[str] = []
    for end, labels, value in family.samples:
        if (key := (name + end, tuple(sorted(labels)))) not in seen:
            seen.add(key)
            samples.append(f"{name}{end}{_labelled(labels)} {_number(value)}")
    return [*_header(family, openmetrics), *samples] if samples else []


def _header(family: Family, openmetrics: bool) -> Iterable[str]:
    name = family.name
    shown = name if openmetrics or family.kind != "counter" else f"{name}_total"
    if family.description:
        text = family.description.translate(_LABEL if openmetrics else _HELP)
        yield f"# HELP {shown} {text}"
    yield f"# TYPE {shown} {family.kind}"
    if openmetrics and family.unit:
        yield f"# UNIT {shown} {family.unit}"


def _labelled(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_LABEL)}"' for name, value in labels) + "}"


def _number(value: float) -> str:
    value = float(value)
    if math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
