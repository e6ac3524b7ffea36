"""``python -m storage_lib.backends.file.anew FILE``: so that a database of an earlier version can shrink."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from storage_lib.backends.file.space import make_anew


def main(path: str) -> None:
    """Make the database at ``path`` anew. Whoever writes to it meanwhile waits, or is told to try again."""
    if not Path(path).is_file():
        raise SystemExit(f"{path} is not there: give the path of a data folder's system/store.db")
    before = Path(path).stat().st_size
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        make_anew(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise SystemExit(f"{path} could not be made anew, and is as it was: {error}") from error
    finally:
        connection.close()
    print(f"{path}: {before / 1e6:.1f} MB before, {Path(path).stat().st_size / 1e6:.1f} MB now")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m storage_lib.backends.file.anew DATA/system/store.db")
    main(sys.argv[1])
