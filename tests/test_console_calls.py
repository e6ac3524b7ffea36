"""The calls that the console makes of the app, and nobody else yet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from functions.console.assets import page, providers
from storage_lib.config import MetricsOptions, StorageConfig
from storage_lib.manager import StorageManager
from storage_lib.sizes import Sizes
from tests.http_app import PlatformApp, config_of, serve

JSON = {"Content-Type": "application/json"}


@pytest.fixture(params=["memory", "file", "azurite"])
def store(request: pytest.FixtureRequest) -> tuple[str, object]:
    """A kind of store, and its server if it has one."""
    return request.param, request.getfixturevalue("azurite") if request.param == "azurite" else None


@pytest.fixture
async def app(
    store: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(*store, tmp_path)) as app:
        yield app


async def test_a_list_of_queues_tells_how_long_they_are(app: PlatformApp) -> None:
    """In one request, page by page, hidden messages included; without being asked it tells names alone."""
    prefix = f"q-{uuid4().hex[:12]}-"
    before = datetime.now(UTC) - timedelta(minutes=5)
    for name, messages in (("a", 2), ("b", 1), ("c", 1)):
        for n in range(messages):
            hidden = {"delay_seconds": 3600} if name == "c" else {}
            sent = json.dumps({"body": str(n), **hidden}).encode()
            answer = await app("POST", f"/api/queues/{prefix}{name}/messages", sent, JSON)
            assert answer.status == 201
    named = (await app("GET", f"/api/queues?prefix={prefix}")).json
    assert named["queues"] == [{"name": f"{prefix}{name}", "owner": None} for name in "abc"]
    first = (await app("GET", f"/api/queues?prefix={prefix}&lengths=true&limit=2")).json
    rest = (await app("GET", f"/api/queues?prefix={prefix}&lengths=true&cursor={first['cursor']}")).json
    found = [*first["queues"], *rest["queues"]]
    assert [each["length"] for each in found] == [2, 1, 1]
    told = [each["oldest_at"] and datetime.fromisoformat(each["oldest_at"]) > before for each in found]
    assert told == [True, True, None]
    refused = await app("GET", "/api/queues?lengths=perhaps")
    assert (refused.status, refused.json["field"]) == (400, "lengths")


async def test_what_is_stored_is_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC).timestamp()
    config = StorageConfig(base_path=str(tmp_path), metrics=MetricsOptions(sizes_hours=2))
    async with serve(monkeypatch, config) as app:
        assert (await app("GET", "/api/sizes")).json == {"hours": 2, "growth": {}, "samples": []}
        async with StorageManager(StorageConfig(base_path=str(tmp_path))) as storage:
            for hours, size in ((49, 10), (25, 100), (1, 1000)):
                await storage.save(f"reports/{size}", b"x" * size)
                clock = now - hours * 3600
                assert await Sizes(storage, lambda clock=clock: clock).measure(timedelta(hours=1))
        told = (await app("GET", "/api/sizes")).json
        assert [each["prefixes"]["reports/"] for each in told["samples"]] == [[1, 10], [2, 110], [3, 1110]]
        ages = [now - datetime.fromisoformat(each["at"]).timestamp() for each in told["samples"]]
        assert [round(age / 3600) for age in ages] == [49, 25, 1]
        assert told["growth"]["reports/"] == 1000
        newest = (await app("GET", "/api/sizes?limit=1")).json["samples"]
        assert newest == told["samples"][-1:]
        assert (await app("GET", "/api/sizes?limit=0")).status == 400


@pytest.mark.parametrize(
    ("configuration", "found"),
    [
        ("", ("aad",)),
        ("no JSON", ("aad",)),
        ('["a list"]', ("aad",)),
        ({}, ("aad",)),
        ({"identityProviders": "what"}, ("aad",)),
        (
            {
                "identityProviders": {
                    "azureActiveDirectory": {"enabled": True, "registration": {"clientId": "x"}},
                    "gitHub": {"registration": {"clientId": "x", "clientSecretSettingName": "S"}},
                    "facebook": {"enabled": False, "registration": {"appId": "x"}},
                    "google": {"enabled": True, "registration": {}, "login": {}},
                    "twitter": {"enabled": True, "registration": {"consumerKey": "x"}},
                    "apple": None,
                    "customOpenIdConnectProviders": {
                        "okta": {"registration": {"clientId": "x"}},
                        '"><script>': {"registration": {"clientId": "x"}},
                        "off": {"enabled": False, "registration": {"clientId": "x"}},
                    },
                }
            },
            ("aad", "github", "twitter", "okta"),
        ),
    ],
    ids=["none", "broken", "list", "empty", "odd", "several"],
)
def test_people_sign_in_by_what_the_platform_is_set_up_for(
    monkeypatch: pytest.MonkeyPatch, configuration: Any, found: tuple[str, ...]
) -> None:
    told = configuration if isinstance(configuration, str) else json.dumps(configuration)
    monkeypatch.setenv("WEBSITE_AUTH_V2_CONFIG_JSON", told)
    monkeypatch.delenv("WEBSITE_AUTH_ENABLED", raising=False)
    assert providers() == ()
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "True")
    assert providers() == found
    assert f'<meta name="sign-in" content="{" ".join(found)}">'.encode() in page(False, found).body
    assert b"sign-in" not in page(False, ()).body
