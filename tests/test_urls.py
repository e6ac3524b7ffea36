"""URLs that name stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError
from storage_lib.urls import config_of, open_store

KEY = "c2VjcmV0LXNlY3JldA=="
ACCOUNT = f"DefaultEndpointsProtocol=https;AccountName=mine;AccountKey={KEY};EndpointSuffix=core.windows.net"
AZURITE = {"AgentStorage": "UseDevelopmentStorage=true"}
IDENTITY = {
    "AgentStorage__blobServiceUri": "https://mine.blob.core.windows.net",
    "AgentStorage__clientId": "id",
}
APP = {"AGENT_STORAGE_HTTP_URL": "https://app.example/api", "AGENT_STORAGE_HTTP_KEY": "k"}
S3 = {"AGENT_STORAGE_TYPE": "s3", "AGENT_STORAGE_S3_BUCKET": "b-1", "AGENT_STORAGE_TABLES_AND_QUEUES": "file"}


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("file:./data", {}, {"storage_type": "file", "base_path": "data"}),
        ("file:/abs/path", AZURITE, {"storage_type": "file", "base_path": "/abs/path"}),
        ("FILE:/abs", {}, {"storage_type": "file", "base_path": "/abs"}),
        ("file:/a b/50%/c#d?e", {}, {"base_path": "/a b/50%/c#d?e"}),
        ("file:///a%20b", {}, {"base_path": "/a b"}),
        ("file://localhost/a", {}, {"base_path": "/a"}),
        ("file:~/data", {}, {"base_path": str(Path.home() / "data")}),
        ("file:a", {"AGENT_STORAGE_SHARED_GROUP": "true"}, {"shared_group": True}),
        ("file:a", {"AGENT_STORAGE_COMPRESSION": "true"}, {"base_path": "a"}),
        ("file:./data?namespace=dev", {}, {"base_path": "data", "namespace": "dev"}),
        ("file:data", {"AGENT_STORAGE_NAMESPACE": "dev"}, {"namespace": "dev"}),
        ("file:data?namespace=", {"AGENT_STORAGE_NAMESPACE": "dev"}, {"namespace": ""}),
        ("file:other", {"AGENT_STORAGE_NAMESPACE": "dev"}, {"namespace": ""}),
        ("azure:?namespace=two", AZURITE | {"AGENT_STORAGE_NAMESPACE": "dev"}, {"namespace": "two"}),
        (
            "azure://mine/c-1?namespace=dev",
            {"AgentStorage": ACCOUNT},
            {"connection_string": ACCOUNT, "container": "c-1", "namespace": "dev"},
        ),
        ("memory:", AZURITE, {"storage_type": "memory"}),
        ("azure:", AZURITE, {"storage_type": "azure", "connection_string": "UseDevelopmentStorage=true"}),
        ("azure:", {"AzureWebJobsStorage": ACCOUNT}, {"connection_string": ACCOUNT}),
        ("azure:", AZURITE | {"AGENT_STORAGE_TYPE": "file"}, {"storage_type": "azure"}),
        ("azure://mine/c-1", {"AgentStorage": ACCOUNT}, {"connection_string": ACCOUNT, "container": "c-1"}),
        ("azure://MINE", {"AgentStorage": ACCOUNT}, {"container": "agent-storage", "account_url": None}),
        ("azure://mine/", {"AGENT_STORAGE_CONTAINER": "own", "AgentStorage": ACCOUNT}, {"container": "own"}),
        ("azure://devstoreaccount1/c-1", AZURITE, {"connection_string": "UseDevelopmentStorage=true"}),
        ("azure://mine.blob.core.windows.net/c-1", IDENTITY, {"client_id": "id", "container": "c-1"}),
        (
            "azure://other/c-1",
            {"AgentStorage": ACCOUNT},
            {"connection_string": None, "blob_endpoint": "https://other.blob.core.windows.net"},
        ),
        (
            "azure://other.blob.core.chinacloudapi.cn/c-1",
            IDENTITY,
            {"client_id": "id", "blob_endpoint": "https://other.blob.core.chinacloudapi.cn"},
        ),
        ("s3://b-1", {}, {"storage_type": "s3", "s3_bucket": "b-1"}),
        ("s3://b-1/", {"AGENT_STORAGE_S3_REGION": "eu-central-1"}, {"s3_region": "eu-central-1"}),
        ("s3://b-1", S3, {"tables_and_queues": "file"}),
        ("s3://b-2", S3, {"tables_and_queues": None}),
        ("file:a", S3, {"tables_and_queues": None}),
        ("azure://mine", {"AGENT_STORAGE_TABLES_AND_QUEUES": "file"}, {"tables_and_queues": None}),
        (
            "http://127.0.0.1:7071/api",
            AZURITE,
            {"storage_type": "http", "http_url": "http://127.0.0.1:7071/api"},
        ),
        ("HTTPS://app.example/api/", {}, {"storage_type": "http", "http_key": None}),
        ("https://app.example/api", APP | {"AGENT_STORAGE_HTTP_URL": ""}, {"http_key": "k"}),
        ("https://app.example:443/api", APP, {"http_key": "k"}),
        ("https://other.example/api", APP, {"http_key": None}),
        ("http://app.example/api", APP, {"http_key": None}),
        (
            "https://app.example/api",
            {"AGENT_STORAGE_COMPRESSION": "true", "AGENT_STORAGE_CACHING": "true"},
            {"compression": None},
        ),
    ],
)
def test_a_url_names_a_store(url: str, environ: dict[str, str], expected: dict[str, Any]) -> None:
    config = config_of(url, environ)
    for name, value in expected.items():
        assert (str if name == "base_path" else lambda each: each)(getattr(config, name)) == value


def test_layers_are_of_the_environment_and_a_second_store_of_its_own_store(tmp_path: Path) -> None:
    second, own = tmp_path / "second", tmp_path / "own"
    environ = {
        "AGENT_STORAGE_PATH": str(own),
        "AGENT_STORAGE_COMPRESSION": "gzip",
        "AGENT_STORAGE_RETRY_ATTEMPTS": "7",
        "AGENT_STORAGE_FALLBACK": "mirror",
        "AGENT_STORAGE_FALLBACK_TYPE": "file",
        "AGENT_STORAGE_FALLBACK_PATH": str(second),
    }
    assert config_of(f"file:{own}", environ) == StorageConfig.from_env(environ)
    config = config_of(f"file:{second}", environ)
    assert config.compression is not None
    assert (config.fallback, config.retry_attempts) == (None, 7)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no scheme"),
        ("./data", "file:./data"),
        ("/abs", "file:/abs"),
        ("C:\\data", "file:C:\\data"),
        ("file:", "names no folder"),
        ("file://host/share", "names the host 'host'"),
        ("file://./data", "file:./data"),
        ("file:a\0b", "names no folder"),
        ("memory:x", "write memory:"),
        ("gs://bucket", "begins with gs:"),
        ("azure:/account", "azure://account/container"),
        ("azure:account", "azure://account/container"),
        ("azure://account/container/a/b", "a prefix of keys"),
        ("azure://[", "is not a URL"),
        ("s3:", "names no bucket"),
        ("s3://b-1/a/b", "write s3://b-1"),
        ("s3://b-1?region=x", "a query"),
        ("s3://b-1?namespace=dev", "a query"),
        ("https:///api", "names no host"),
        ("https://mine.blob.core.windows.net/c-1/x", "write azure://mine/c-1"),
        (None, "NoneType"),
    ],
)
def test_what_names_no_store_is_refused_with_a_remedy(url: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        config_of(url, {})
    assert refused.value.field == "url"
    assert says in refused.value.explained()
    assert "s3://bucket" in refused.value.explained()


@pytest.mark.parametrize("name", ["My-App", "dev&x=1", "dev#x", "dev/k", "dev?namespace=two", "dev\n"])
@pytest.mark.parametrize("place", ["file:./data", "azure://mine/c-1", "azure:"])
def test_what_is_no_namespace_is_refused_with_its_limit(place: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the namespace in .* is ") as refused:
        config_of(f"{place}?namespace={name}", AZURITE)
    assert repr(name) in refused.value.message
    assert (refused.value.field, refused.value.limit is None, refused.value.remedy is None) == (
        "url",
        False,
        False,
    )


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hush@b-1",
        "s3://b-1?secret=hush",
        "s3://b-1#hush",
        "azure://user:hush@account/container",
        "azure://account/container?sv=1&sig=hush",
        "gs://user:hush@b",
        "azure:///c?sig=hush",
        "https://app.example/api?code=hush",
        "https://user:hush@app.example/api",
        "file:///data?hush",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        config_of(url, {})
    assert "hush" not in refused.value.explained()


async def test_an_opened_store_works(tmp_path: Path) -> None:
    async with open_store(f"file:{tmp_path}/data", {}) as storage:
        await storage.save("a", {"b": 1})
    async with open_store(f"file:{tmp_path}/data", {}) as storage:
        assert await storage.load("a") == {"b": 1}
