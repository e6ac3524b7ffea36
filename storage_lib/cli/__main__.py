"""``python -m storage_lib.cli`` and ``agent-storage``."""

import sys

from storage_lib.cli.interrupts import end_at_once


def main() -> None:
    """Run the command of ``sys.argv`` and exit with its code."""
    end_at_once()
    try:
        from storage_lib.cli.program import run
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("agent-storage: the command line needs its extra: pip install 'agent-storage[cli]'")
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
