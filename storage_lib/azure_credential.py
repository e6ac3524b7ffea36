"""The credential that Azure's async clients ask for tokens: the given one, or that of the identity."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from storage_lib import threads

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken


class Credential:
    """A credential in the form that the async clients want.

    :param given: anything with ``get_token``, sync or async; None makes a DefaultAzureCredential when a token
        is needed.
    :param client_id: of the user-assigned identity, if one is to be used.
    :param transport: through which that one asks; None makes its own.
    """

    def __init__(self, given: Any, client_id: str | None, transport: Any = None) -> None:
        self._given = given
        self._client_id = client_id
        self._transport = transport
        self._own: Any = None

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        credential = self._given
        if credential is None:
            if self._own is None:
                from azure.identity.aio import DefaultAzureCredential

                self._own = DefaultAzureCredential(
                    managed_identity_client_id=self._client_id, transport=self._transport
                )
            credential = self._own
        if inspect.iscoroutinefunction(credential.get_token):
            return await credential.get_token(*scopes, **options)
        token = await threads.waiting.run(partial(credential.get_token, *scopes, **options))
        return await token if inspect.isawaitable(token) else token

    async def close(self) -> None:
        """Close the credential that was made here; a given one is its giver's."""
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> Credential:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The clients leave it open: it is shared."""
