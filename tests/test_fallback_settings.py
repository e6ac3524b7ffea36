"""The fallback's configuration: options, settings, secrets, and what is built from them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from storage_lib.config import StorageConfig
from storage_lib.config.caching import CachingOptions
from storage_lib.config.fallback import _SETTINGS, FallbackOptions
from storage_lib.config.spelling import misspelt
from storage_lib.errors import ConfigurationError, NotPortableError
from storage_lib.factory import build
from storage_lib.layers.fallback import FallbackLayer
from storage_lib.manager import StorageManager

SECRET = "c2VjcmV0LWtleQ=="
CONNECTION = f"AccountName=team2;AccountKey={SECRET};EndpointSuffix=core.windows.net"


def of(env: dict[str, str]) -> FallbackOptions | None:
    named = {f"AGENT_STORAGE_FALLBACK{name and '_'}{name}": value for name, value in env.items()}
    return StorageConfig.from_env(
        {"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_PATH": "first", **named}
    ).fallback


def test_every_setting_of_the_second_store() -> None:
    assert of({}) is None
    assert of({"": "false"}) is None
    assert of({"": "fallback", "TYPE": "file", "PATH": "second"}) == FallbackOptions(
        secondary=StorageConfig(base_path="second")
    )
    found = of(
        {
            "": "mirror",
            "TYPE": "azure",
            "CONNECTION": CONNECTION,
            "CONTAINER": "second",
            "RETRY_ATTEMPTS": "2",
            "CONCURRENT_REQUESTS": "8",
            "WRITES": "secondary",
            "COMPLETE": "false",
            "CHECK_SECONDS": "0.5",
        }
    )
    assert found == FallbackOptions(
        secondary=StorageConfig(
            storage_type="azure",
            connection_string=CONNECTION,
            container="second",
            retry_attempts=2,
            concurrent_requests=8,
        ),
        mode="mirror",
        writes="secondary",
        complete=False,
        check_seconds=0.5,
    )
    found = of(
        {
            "": "fallback",
            "TYPE": "s3",
            "S3_BUCKET": "bucket",
            "S3_ENDPOINT": "http://127.0.0.1:1",
            "S3_REGION": "eu-central-1",
            "S3_ACCESS_KEY_ID": "id",
            "S3_SECRET_ACCESS_KEY": SECRET,
        }
    )
    assert found is not None
    assert (found.secondary.s3_bucket, found.secondary.s3_secret_access_key) == ("bucket", SECRET)
    found = of(
        {"": "fallback", "TYPE": "azure", "ACCOUNT_URL": "https://b.blob.core.windows.net", "CLIENT_ID": "i"}
    )
    assert found is not None
    assert (found.secondary.account_url, found.secondary.client_id) == (
        "https://b.blob.core.windows.net",
        "i",
    )


def test_every_field_that_names_a_store_has_a_setting() -> None:
    of_others = {"tables_and_queues", "message_encoding", "allow_pickle", "signing_key"}
    of_others |= {"http_url", "http_key"}  # An app cannot be the second store.
    of_others |= {"namespace"}  # Of tables and queues, which have no second store.
    layers = {"metrics", "audit", "validation", "caching", "compression", "encryption", "fallback"}
    assert set(_SETTINGS) == set(StorageConfig.__dataclass_fields__) - of_others - layers
    names = [f"AGENT_STORAGE_FALLBACK_{name}" for name in _SETTINGS.values()]
    assert not misspelt([*names, "AGENT_STORAGE_FALLBACK", "AGENT_STORAGE_FALLBACK_WRITES"])
    assert misspelt(["AGENT_STORAGE_FALLBACK_WRITE"]) == {
        "AGENT_STORAGE_FALLBACK_WRITE": "AGENT_STORAGE_FALLBACK_WRITES"
    }


@pytest.mark.parametrize(
    ("env", "setting"),
    [
        ({"": "yes"}, "AGENT_STORAGE_FALLBACK"),
        ({"PATH": "second"}, "AGENT_STORAGE_FALLBACK"),
        ({"": "fallback"}, "AGENT_STORAGE_FALLBACK_TYPE"),
        ({"": "fallback", "TYPE": "ftp"}, "AGENT_STORAGE_FALLBACK_TYPE"),
        ({"": "fallback", "TYPE": "s3"}, "AGENT_STORAGE_FALLBACK_S3_BUCKET"),
        ({"": "fallback", "TYPE": "azure"}, "AGENT_STORAGE_FALLBACK_CONNECTION"),
        (
            {"": "fallback", "TYPE": "file", "PATH": "x", "RETRY_ATTEMPTS": "0"},
            "AGENT_STORAGE_FALLBACK_RETRY_ATTEMPTS",
        ),
        (
            {"": "fallback", "TYPE": "file", "PATH": "x", "RETRY_ATTEMPTS": "a"},
            "AGENT_STORAGE_FALLBACK_RETRY_ATTEMPTS",
        ),
        ({"": "fallback", "TYPE": "file", "PATH": "x", "WRITES": "both"}, "AGENT_STORAGE_FALLBACK_WRITES"),
        (
            {"": "fallback", "TYPE": "file", "PATH": "x", "COMPLETE": "maybe"},
            "AGENT_STORAGE_FALLBACK_COMPLETE",
        ),
        (
            {"": "fallback", "TYPE": "file", "PATH": "x", "CHECK_SECONDS": "-1"},
            "AGENT_STORAGE_FALLBACK_CHECK_SECONDS",
        ),
        (
            {"": "fallback", "TYPE": "file", "PATH": "x", "CHECK_SECONDS": "9999"},
            "AGENT_STORAGE_FALLBACK_CHECK_SECONDS",
        ),
        ({"": "fallback", "TYPE": "file", "PATH": "first"}, "fallback.secondary"),
        ({"": "fallback", "TYPE": "file", "PATH": "other/../first"}, "fallback.secondary"),
    ],
)
def test_a_setting_that_cannot_work_is_named(env: dict[str, str], setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        of(env)
    assert caught.value.field == setting
    assert caught.value.limit or caught.value.remedy


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"secondary": None}, "fallback.secondary"),
        ({"secondary": "file"}, "fallback.secondary"),
        ({"secondary": StorageConfig(caching=CachingOptions())}, "fallback.secondary.caching"),
        ({"secondary": StorageConfig(tables_and_queues="file")}, "fallback.secondary.tables_and_queues"),
        ({"mode": "both"}, "fallback.mode"),
        ({"writes": "none"}, "fallback.writes"),
        ({"complete": "yes"}, "fallback.complete"),
        ({"check_seconds": True}, "fallback.check_seconds"),
        ({"check_seconds": float("nan")}, "fallback.check_seconds"),
    ],
)
def test_an_option_that_cannot_work_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FallbackOptions(**{"secondary": StorageConfig(), **options})
    assert caught.value.field == field
    assert caught.value.limit or caught.value.remedy


def config(tmp_path: Path) -> StorageConfig:
    return StorageConfig(
        base_path=tmp_path / "first",
        fallback=FallbackOptions(
            secondary=StorageConfig(
                storage_type="azure", connection_string=CONNECTION, container="second", retry_attempts=3
            )
        ),
    )


def test_the_second_store_has_its_own_retries_and_shows_no_secret(tmp_path: Path) -> None:
    made = config(tmp_path)
    backend = build(made)
    assert isinstance(backend, FallbackLayer)
    assert type(backend.secondary).__name__ == "RetryBackend"
    assert backend.secondary._retriers["objects"].options.attempts == 3  # type: ignore[attr-defined]
    for shown in (repr(made), repr(backend), repr(made.fallback), str(made.fallback)):
        assert SECRET not in shown


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - this test has written it


@pytest.mark.parametrize("way", [pickled, copy.copy, copy.deepcopy])
def test_pickled_and_copied(way: Any, tmp_path: Path) -> None:
    made = config(tmp_path)
    assert way(made) == made
    backend = way(build(made))
    assert isinstance(backend, FallbackLayer)
    assert backend.options == made.fallback
    assert repr(way(StorageManager(made)).backend) == repr(build(made))


def test_a_second_store_in_memory_does_not_travel(tmp_path: Path) -> None:
    memory = FallbackOptions(secondary=StorageConfig(storage_type="memory"))
    with pytest.raises(NotPortableError):
        pickle.dumps(StorageManager(StorageConfig(base_path=tmp_path, fallback=memory)))


async def test_relative_folders_mean_the_same_in_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    second = FallbackOptions(secondary=StorageConfig(base_path="second"), mode="mirror")
    async with StorageManager(StorageConfig(base_path="first", fallback=second)) as storage:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await storage.save("k", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "first", "second"]
