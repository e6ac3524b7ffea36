"""A second look at the few tests that failed: ``python -m tests.second_look EXIT_CODE``, for `make test`.

Of some 18,000 tests, which kill processes, race and share servers, one may fail by chance. Up to three that
failed are run again, five times each and by themselves. A test that passes all five times is reported as
unsteady, and the run passes; its failure stands above, to be understood. One that fails again has failed, and
more than three are no chance. `make soak` takes no second look.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST_TESTS = 3
TIMES = 5
_FAILED = 1
"""pytest's exit code where tests failed; any other tells that it could not run them."""


def failed_tests(cache: Path) -> list[str]:
    """What pytest has noted of its last run."""
    return sorted(json.loads((cache / "v/cache/lastfailed").read_text()))


def passes_alone(test: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--quiet", test]
    return all(subprocess.run(command, check=False).returncode == 0 for _ in range(TIMES))


def main(exit_code: int) -> int:
    if exit_code != _FAILED:
        return exit_code
    failed = failed_tests(Path(".pytest_cache"))
    if not 0 < len(failed) <= MOST_TESTS:
        print(f"{len(failed)} tests failed: no second look")
        return exit_code
    again = [test for test in failed if not passes_alone(test)]
    for test in failed:
        verdict = "FAILED AGAIN" if test in again else f"UNSTEADY (passed {TIMES} times by itself)"
        print(f"{verdict}: {test}")
    return _FAILED if again else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
