"""Artifacts of Google ADK."""

# It conflicts with other frameworks, so the type checker does not see it.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

from google.adk.artifacts import BaseArtifactService, artifact_util
from google.adk.artifacts.base_artifact_service import ArtifactVersion, ensure_part
from google.adk.errors.input_validation_error import InputValidationError
from google.genai import types

from storage_lib import (
    PreconditionFailedError,
    StorageManager,
    TransientStorageError,
    from_segment,
    to_segment,
)

_ATTEMPTS = 1000
_REFERENCES = 5
"""How many lead from one to the next, as in ADK's own services."""


class StorageArtifactService(BaseArtifactService):
    """Artifacts, each version an object and, beside it, a small one with what is known of it. Saves at the
    same time get different versions.

    :param prefix: where the objects are.
    """

    def __init__(self, storage: StorageManager, *, prefix: str = "google-adk") -> None:
        self._storage = storage
        self._prefix = "".join(f"{each}/" for each in prefix.split("/") if each)

    async def save_artifact(
        self,
        *,
        app_name: str,
        user_id: str,
        filename: str,
        artifact: types.Part | dict[str, Any],
        session_id: str | None = None,
        custom_metadata: dict[str, Any] | None = None,
    ) -> int:
        """Store the next version of an artifact; the first one is 0.

        :raises InputValidationError: an id is invalid, there is none of a session, or it is no kind of
            artifact.
        """
        where: dict[str, Any] = {"app_name": app_name, "user_id": user_id, "session_id": session_id}
        folder = self._folder(filename=filename, **where)
        part = ensure_part(artifact)
        if part.inline_data is not None:
            mime_type = part.inline_data.mime_type
        elif part.text is not None:
            mime_type = "text/plain"
        elif part.file_data is not None:
            mime_type = part.file_data.mime_type
            if artifact_util.is_artifact_ref(part):
                mime_type = None
                artifact_util.resolve_artifact_reference(
                    file_uri=part.file_data.file_uri, remaining_depth=1, **where
                )
        else:
            raise InputValidationError("Not supported artifact type.")
        value = part.model_dump(exclude_none=True)
        for _ in range(_ATTEMPTS):
            version = max(await self._versions(folder), default=-1) + 1
            try:
                await self._storage.save(f"{folder}/parts/{version:010}", value, if_absent=True)
                break
            except PreconditionFailedError:
                continue  # Somebody else has saved this version.
        else:
            raise TransientStorageError(f"{folder!r} was saved by others {_ATTEMPTS} times in a row")
        scope = None if filename.startswith("user:") else session_id
        info = ArtifactVersion(
            version=version,
            canonical_uri=artifact_util.get_artifact_uri(app_name, user_id, filename, version, scope),
            custom_metadata=custom_metadata or {},
            mime_type=mime_type,
        )
        await self._storage.save(f"{folder}/infos/{version:010}", info.model_dump())
        return version

    async def load_artifact(self, *, version: int | None = None, **where: Any) -> types.Part | None:
        """A version of an artifact, the last one if none is named; None if there is none. References are
        followed."""
        for depth in range(_REFERENCES, -1, -1):
            folder = self._folder(**where)
            if version is None:
                version = max(await self._versions(folder), default=-1)
            found = (
                await self._storage.load(f"{folder}/parts/{version:010}", default=None)
                if version >= 0
                else None
            )
            if found is None:
                return None
            part = types.Part.model_validate(found)
            if not artifact_util.is_artifact_ref(part):
                gone = part == types.Part() or artifact_util._is_rewind_tombstone(part)
                return None if gone else part
            scope: dict[str, Any] = {name: where.get(name) for name in ("app_name", "user_id", "session_id")}
            uri = part.file_data.file_uri  # pyright: ignore[reportOptionalMemberAccess]
            target = artifact_util.resolve_artifact_reference(file_uri=uri, remaining_depth=depth, **scope)
            where, version = target._asdict(), target.version
            del where["version"]
        return None

    async def list_artifact_keys(
        self, *, app_name: str, user_id: str, session_id: str | None = None
    ) -> list[str]:
        """The names of a user's artifacts, and of those of a session, in order."""
        folders = [self._folder(app_name=app_name, user_id=user_id, filename="user:", session_id=None)]
        if session_id is not None:
            folders.append(
                self._folder(app_name=app_name, user_id=user_id, filename="", session_id=session_id)
            )
        names: set[str] = set()
        for folder in (each.rpartition("/")[0] for each in folders):
            async for key in self._storage.list_keys(f"{folder}/"):
                names.add(from_segment(key.removeprefix(f"{folder}/").partition("/")[0]))
        return sorted(names)

    async def delete_artifact(self, **where: Any) -> None:
        """Delete all versions of an artifact, if there are any."""
        keys = await self._storage.list_keys(f"{self._folder(**where)}/")
        await self._storage.delete_many(keys, missing_ok=True, raise_errors=True)

    async def list_versions(self, **where: Any) -> list[int]:
        """The versions of an artifact, in order."""
        return await self._versions(self._folder(**where))

    async def list_artifact_versions(self, **where: Any) -> list[ArtifactVersion]:
        """What is known of the versions of an artifact, in order."""
        keys = await self._storage.list_keys(f"{self._folder(**where)}/infos/")
        found = await self._storage.load_many(keys, raise_errors=True)
        return [ArtifactVersion.model_validate(found[key]) for key in keys]

    async def get_artifact_version(
        self, *, version: int | None = None, **where: Any
    ) -> ArtifactVersion | None:
        """What is known of a version of an artifact, the last one if none is named; None if there is none."""
        folder = self._folder(**where)
        if version is None:
            version = max(await self._versions(folder), default=-1)
        found = (
            await self._storage.load(f"{folder}/infos/{version:010}", default=None) if version >= 0 else None
        )
        return None if found is None else ArtifactVersion.model_validate(found)

    async def _versions(self, folder: str) -> list[int]:
        return [int(key.rpartition("/")[2]) async for key in self._storage.list_keys(f"{folder}/parts/")]

    def _folder(self, *, app_name: str, user_id: str, filename: str, session_id: str | None = None) -> str:
        artifact_util.validate_path_segment(app_name, "app_name")
        artifact_util.validate_path_segment(user_id, "user_id")
        if filename.startswith("user:"):
            scope = ("user",)
        elif session_id is None:
            raise InputValidationError("Session ID must be provided for session-scoped artifacts.")
        else:
            artifact_util.validate_path_segment(session_id, "session_id")
            scope = ("sessions", session_id)
        return self._prefix + "/".join(map(to_segment, ("artifacts", app_name, user_id, *scope, filename)))
