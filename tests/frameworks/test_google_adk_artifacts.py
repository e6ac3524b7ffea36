"""Artifacts of Google ADK: its own service in memory and ours, by the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.adk.artifacts import BaseArtifactService, InMemoryArtifactService
from google.adk.errors.input_validation_error import InputValidationError
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.google_adk import StorageArtifactService
from storage_lib import StorageConfig, StorageManager
from tests.framework_stores import Place, on, storage_on

WHO = {"app_name": "shop", "user_id": "ann"}


@pytest.fixture(params=["InMemory", "memory", "file", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def service(any_place: Place, tmp_path: Path) -> AsyncIterator[BaseArtifactService]:
    if any_place[0] == "InMemory":
        yield InMemoryArtifactService()
        return
    async with storage_on(any_place, tmp_path) as storage:
        yield StorageArtifactService(storage)


def text(said: str) -> types.Part:
    return types.Part(text=said)


IMAGE = types.Part(
    inline_data=types.Blob(data=b"\x00\xff" * 500_000, mime_type="image/png", display_name="A")
)
LINK = types.Part(file_data=types.FileData(file_uri="gs://bucket/file", mime_type="video/mp4"))


async def test_versions_come_back(service: BaseArtifactService) -> None:
    where: dict[str, Any] = {**WHO, "session_id": "chat", "filename": "a/report 1.png"}
    assert await service.load_artifact(**where) is None
    assert await service.list_versions(**where) == []
    for version, part in enumerate((IMAGE, text("ä 🎉"), LINK)):
        assert (
            await service.save_artifact(**where, artifact=part, custom_metadata={"n": [version]}) == version
        )
    assert await service.load_artifact(**where) == LINK
    assert [await service.load_artifact(**where, version=n) for n in range(3)] == [IMAGE, text("ä 🎉"), LINK]
    assert await service.load_artifact(**where, version=3) is None
    assert await service.load_artifact(**where, version=-1) is None
    assert await service.list_versions(**where) == [0, 1, 2]
    infos = await service.list_artifact_versions(**where)
    assert [(each.version, each.mime_type, each.custom_metadata) for each in infos] == [
        (0, "image/png", {"n": [0]}),
        (1, "text/plain", {"n": [1]}),
        (2, "video/mp4", {"n": [2]}),
    ]
    assert await service.get_artifact_version(**where) == infos[2]
    assert await service.get_artifact_version(**where, version=1) == infos[1]
    assert await service.get_artifact_version(**where, version=9) is None
    await service.delete_artifact(**where)
    await service.delete_artifact(**where)
    assert await service.load_artifact(**where) is None
    assert (
        await service.save_artifact(**where, artifact={"inlineData": {"data": "AAE=", "mimeType": "x/y"}})
        == 0
    )


async def test_artifacts_are_of_a_session_or_of_a_user(service: BaseArtifactService) -> None:
    for session, name in (("one", "b"), ("one", "a"), ("two", "a"), ("one", "user:all"), (None, "user:more")):
        await service.save_artifact(
            **WHO, session_id=session, filename=name, artifact=text(f"{session} {name}")
        )
    assert await service.list_artifact_keys(**WHO, session_id="one") == ["a", "b", "user:all", "user:more"]
    assert await service.list_artifact_keys(**WHO) == ["user:all", "user:more"]
    assert await service.list_artifact_keys(app_name="shop", user_id="bob") == []
    assert await service.load_artifact(**WHO, session_id="two", filename="user:all") == text("one user:all")
    assert await service.load_artifact(**WHO, session_id="two", filename="a") == text("two a")


async def test_what_is_invalid_is_refused(service: BaseArtifactService) -> None:
    save = {**WHO, "session_id": "chat", "filename": "a", "artifact": text("x")}
    wrong = [
        {"session_id": None},
        {"session_id": "../x"},
        {"user_id": "/x"},
        {"app_name": ""},
        {"artifact": types.Part()},
    ]
    for each in wrong:
        with pytest.raises(InputValidationError):
            await service.save_artifact(**(save | each))
    assert await service.list_artifact_keys(**WHO, session_id="chat") == []


async def test_references_are_followed_within_their_scope(service: BaseArtifactService) -> None:
    def reference(uri: str) -> types.Part:
        return types.Part(file_data=types.FileData(file_uri=f"artifact://apps/shop/users/{uri}"))

    where: dict[str, Any] = {**WHO, "session_id": "chat"}
    await service.save_artifact(**where, filename="target", artifact=text("old"))
    await service.save_artifact(**where, filename="target", artifact=text("new"))
    for version, said in ((0, "old"), (1, "new")):
        uri = f"ann/sessions/chat/artifacts/target/versions/{version}"
        await service.save_artifact(**where, filename="link", artifact=reference(uri))
        assert await service.load_artifact(**where, filename="link") == text(said)
    await service.save_artifact(
        **where, filename="loop", artifact=reference("ann/sessions/chat/artifacts/loop/versions/0")
    )
    with pytest.raises(InputValidationError, match="depth"):
        await service.load_artifact(**where, filename="loop")
    for uri in ("bob/artifacts/x/versions/0", "ann/sessions/other/artifacts/x/versions/0", "nonsense"):
        with pytest.raises(InputValidationError):
            await service.save_artifact(**where, filename="link", artifact=reference(uri))


async def test_saves_at_the_same_time_have_different_versions(service: BaseArtifactService) -> None:
    where: dict[str, Any] = {**WHO, "session_id": "chat", "filename": "a"}
    saved = await asyncio.gather(*(service.save_artifact(**where, artifact=text(str(n))) for n in range(6)))
    assert sorted(saved) == list(range(6))
    for n, version in enumerate(saved):
        assert await service.load_artifact(**where, version=version) == text(str(n))


NAMES = st.sampled_from(["a", "user:a", "..", "a/b", "=", "ü ."])
CALLS = st.tuples(
    st.sampled_from(["save", "load", "keys", "versions", "delete"]),
    NAMES,
    st.sampled_from(["one", "two", None]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CALLS, max_size=15))
def test_any_calls_have_the_results_of_adk_s_own(calls: list[tuple[str, str, str | None]]) -> None:
    async def outcome(
        service: BaseArtifactService, call: str, name: str, session: str | None, number: int
    ) -> Any:
        where: dict[str, Any] = {**WHO, "session_id": session}
        match call:
            case "save":
                return await service.save_artifact(**where, filename=name, artifact=text(str(number)))
            case "load":
                return await service.load_artifact(**where, filename=name)
            case "keys":
                return await service.list_artifact_keys(**where)
            case "versions":
                return await service.list_versions(**where, filename=name)
            case _:
                return await service.delete_artifact(**where, filename=name)

    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            services = InMemoryArtifactService(), StorageArtifactService(storage)
            for number, call in enumerate(calls):
                results: list[Any] = []
                for service in services:
                    try:
                        results.append(await outcome(service, *call, number))
                    except InputValidationError as error:
                        results.append(type(error))
                assert results[0] == results[1], call

    asyncio.run(compare())
