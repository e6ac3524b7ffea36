"""`tests.downloads`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.downloads import TRIES, DownloadError, fetched

TIMES = "import pathlib, sys; p = pathlib.Path('n'); n = int(p.read_text()) + 1 if p.exists() else 1; "
TIMES += "p.write_text(str(n)); print('the registry is away'); sys.exit(n < int(sys.argv[1]))"


@pytest.mark.parametrize("good", range(1, TRIES + 1))
def test_what_fails_is_tried_again(tmp_path: Path, good: int) -> None:
    fetched(sys.executable, "-c", TIMES, str(good), cwd=tmp_path, pause=0)
    assert int((tmp_path / "n").read_text()) == good


def test_what_fails_each_time_says_why(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="the registry is away"):
        fetched(sys.executable, "-c", TIMES, "99", cwd=tmp_path, pause=0)
    assert int((tmp_path / "n").read_text()) == TRIES
