"""An action of test_mcp_clients.py, loaded into each host by AGENT_TASK_MODULES."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy

_GATE = Path(os.environ.get("MCP_GATE", "gate"))


# What a kill costs must not decide how it ends.
@task("mcp_gated", retry=RetryPolicy(max_attempts=50, base_seconds=0.1, max_seconds=1))
async def gated(context: TaskContext, payload: Any) -> Any:
    """Wait until the test opens the gate."""
    step = 0
    while not _GATE.exists():
        step += 1
        await context.progress(f"step {step}")
        await asyncio.sleep(0.05)
    return payload
