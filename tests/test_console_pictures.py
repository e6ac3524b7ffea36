"""The pictures of the console: there is one of each view, and they can be taken anew."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.console_pictures import FOLDER, PICTURES, SCALE, main


def test_every_picture_is_there_small_and_shown() -> None:
    shown = set(
        re.findall(r"\]\((?:docs/)?pictures/([\w-]+)\.png\)", (PROJECT / "docs/console.md").read_text())
    )
    of_readme = re.findall(r"\]\(docs/pictures/([\w-]+)\.png\)", (PROJECT / "README.md").read_text())
    assert len(of_readme) == 2
    assert shown | set(of_readme) == set(PICTURES) == {path.stem for path in FOLDER.iterdir()}
    for path in FOLDER.iterdir():
        assert path.stat().st_size < 150_000, path.name


async def test_a_picture_is_taken_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `make screenshots ARGS=queues` does."""
    await main(["queues"], tmp_path)
    (path,) = tmp_path.glob("*.png")
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (1280 * SCALE, 800 * SCALE)
    assert 20_000 < path.stat().st_size < 150_000
    assert "queues.png: " in capsys.readouterr().out
