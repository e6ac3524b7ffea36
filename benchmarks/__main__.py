"""``make bench``: every benchmark of this folder, one table."""

from __future__ import annotations

import argparse
import platform

from benchmarks import cold_start, local_host


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="runs of each (default: %(default)s)")
    runs = parser.parse_args().runs
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {runs} runs each")
    for name, figure, aim in [*cold_start.measure(runs), *local_host.measure(runs)]:
        print(f"{name:<72} {figure:>12}   {aim}")


main()
