"""A FastMCP server that keeps nothing in its process: sessions, OAuth clients and tokens, and what its tools
share are in a store. Stop it and start it elsewhere, or run several at once, and its clients go on.

    python -m examples.fastmcp_server --store file:./data --port 8000

It needs ``fastmcp`` and the extra ``key-value``. With GITHUB_CLIENT_ID and GITHUB_CLIENT_SECRET set, callers
sign in at GitHub; in production encrypt the store (AGENT_STORAGE_ENCRYPTION), for it holds their tokens.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.auth.providers.github import GitHubProvider
from fastmcp.server.dependencies import get_session
from fastmcp.server.sessions import SessionId, SessionProvider

from integrations.key_value import KeyValueStore
from storage_lib import StorageManager, open_store


def sign_in(store: KeyValueStore, url: str) -> GitHubProvider | None:
    """Sign-in at GitHub, whose clients and tokens are in the store; None without its settings."""
    client, secret = os.environ.get("GITHUB_CLIENT_ID"), os.environ.get("GITHUB_CLIENT_SECRET")
    if not client or not secret:
        return None
    return GitHubProvider(client_id=client, client_secret=secret, base_url=url, client_storage=store)


def build(storage: StorageManager, url: str) -> FastMCP[Any]:
    """A shop: a basket for each session, and one stock for all servers."""
    store = KeyValueStore(storage)
    server: FastMCP[Any] = FastMCP("shop", session_state_store=store, auth=sign_in(store, url))
    server.add_provider(SessionProvider())

    @server.tool
    async def deliver(item: str, count: int) -> int:
        """Put so many of an item on the shelf; return how many there are."""
        stock = await store.update(
            item, lambda found: {"count": found["count"] + count}, collection="stock", initial={"count": 0}
        )
        return stock["count"]

    @server.tool
    async def take(item: str, session_id: SessionId) -> list[str]:
        """Move one of an item from the shelf into the basket of the session; return what is in it."""

        def less(found: dict[str, Any]) -> dict[str, Any]:
            if found["count"] < 1:
                raise ToolError(f"there is no {item} left")
            return {"count": found["count"] - 1}

        session = await get_session(session_id)
        await store.update(item, less, collection="stock", initial={"count": 0})
        basket = [*await session.get("basket", []), item]
        await session.set("basket", basket)
        return basket

    @server.tool
    async def basket(session_id: SessionId) -> list[str]:
        """What is in the basket of the session."""
        return await (await get_session(session_id)).get("basket", [])

    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="file:./data", help="URL of the store (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    url = f"http://{arguments.host}:{arguments.port}"
    server = build(open_store(arguments.store), url)
    server.run(transport="http", host=arguments.host, port=arguments.port, show_banner=False)


if __name__ == "__main__":
    main()
