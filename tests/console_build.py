"""`make console`: builds the page of the app from its source into functions/console/assets."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.client_tools import console_build
from tests.conftest import PROJECT


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in console_build(Path(folder)).iterdir():
            shutil.copy(path, PROJECT / "functions" / "console" / "assets" / path.name)


if __name__ == "__main__":
    main()
