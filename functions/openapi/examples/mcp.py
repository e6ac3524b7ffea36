"""Messages of the Model Context Protocol."""

from __future__ import annotations

from functions.openapi.examples import Example

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "exchange_mcp_message": (
        Example(
            name="a call of a tool",
            headers={"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"},
            body={
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {"name": "save_object", "arguments": {"key": "notes/mcp.json", "value": {"n": 1}}},
            },
        ),
    ),
    "refuse_mcp_stream": (Example(name="no stream", status=405),),
    "refuse_mcp_session_end": (Example(name="no session", status=405),),
    "head_refuse_mcp_stream": (Example(name="no stream", status=405),),
}
