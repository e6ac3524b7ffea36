"""What `make test` makes of a test that fails once, and of one that fails always."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

UNSTEADY = """
from pathlib import Path
def test_it():
    seen = Path(__file__).with_suffix(".seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("only once")
"""
BROKEN = "def test_it():\n    assert False\n"


def _look(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    # Or a file that happens to be above the folder would say where its cache is.
    (folder / "pytest.ini").touch()

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run("tests.second_look", str(run("pytest", "-q").returncode))


def test_a_test_that_fails_once_is_reported_and_the_run_passes(tmp_path: Path) -> None:
    (tmp_path / "test_unsteady.py").write_text(UNSTEADY)
    looked = _look(tmp_path)
    assert looked.returncode == 0
    assert "UNSTEADY (passed 5 times by itself): test_unsteady.py::test_it" in looked.stdout


def test_a_test_that_fails_again_has_failed(tmp_path: Path) -> None:
    (tmp_path / "test_unsteady.py").write_text(UNSTEADY)
    (tmp_path / "test_broken.py").write_text(BROKEN)
    looked = _look(tmp_path)
    assert looked.returncode == 1
    assert "FAILED AGAIN: test_broken.py::test_it" in looked.stdout


def test_many_failures_are_no_chance(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"test_{n}.py").write_text(UNSTEADY)
    looked = _look(tmp_path)
    assert (looked.returncode, looked.stdout) == (1, "4 tests failed: no second look\n")


def test_a_run_that_could_not_begin_has_failed(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    assert _look(tmp_path).returncode == 2
