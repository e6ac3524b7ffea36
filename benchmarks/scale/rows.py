"""A row of the table: what was measured, what it is to be, and whether it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``most`` or ``least`` is the bound; a row with neither informs. ``outside`` says what other than this
    code does not let it be kept."""

    what: str
    measured: float
    unit: str = ""
    most: float | None = None
    least: float | None = None
    outside: str = ""

    @property
    def holds(self) -> bool:
        """Whether it keeps its bound."""
        return (self.most is None or self.measured <= self.most) and (
            self.least is None or self.measured >= self.least
        )

    @property
    def is_bound(self) -> bool:
        """Whether it has a bound."""
        return self.most is not None or self.least is not None

    def told(self) -> tuple[str, str, str]:
        """What, measured, and what it must be."""
        return self.what, f"{_short(self.measured)}{self.unit}", self._bound()

    def _bound(self) -> str:
        if not self.is_bound:
            return ""
        word, bound = ("at most", self.most) if self.least is None else ("at least", self.least)
        assert bound is not None
        missed = f"missed: {self.outside}" if self.outside else "MISSED"
        return f"{word} {_short(bound)}{self.unit}: {'holds' if self.holds else missed}"


def _short(number: float) -> str:
    if number == int(number) or abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3f}" if abs(number) < 0.1 else f"{number:.2f}"
