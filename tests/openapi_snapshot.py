"""The OpenAPI document in the repository, so that a change of the surface is seen: ``python -m
tests.openapi_snapshot`` writes it anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.conftest import PROJECT

SNAPSHOT = PROJECT / "tests" / "data" / "openapi.json"
_TELL = """
import json, function_app
from functions.openapi.document import document_of
print(document_of(function_app.app).body.decode())
"""


def current() -> dict[str, Any]:
    """The document as Azure serves it: in a process of its own, without the settings of this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AGENT_", "AZURE_F"))}
    run = subprocess.run(
        [sys.executable, "-c", _TELL], cwd=PROJECT, env=kept, capture_output=True, check=True
    )
    return json.loads(run.stdout)


if __name__ == "__main__":
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(json.dumps(current(), indent=1, ensure_ascii=False) + "\n")
