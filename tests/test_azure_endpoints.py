"""Where the services are, from every way to say it; and that no secret gets into an error or a repr."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.azure.endpoints import DEVELOPMENT_KEY, Endpoints, resolve
from storage_lib.errors import ConfigurationError

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
SAS = "sv=2026-02-06&ss=bqt&sp=rwdl&sig=c2VjcmV0%3D"


def urls(endpoints: Endpoints) -> tuple[str, str, str]:
    return endpoints.blob, endpoints.queue, endpoints.table


def test_an_account_with_its_key() -> None:
    found = resolve(
        f"DefaultEndpointsProtocol=https;AccountName=team1;AccountKey={KEY};EndpointSuffix=core.windows.net"
    )
    assert urls(found) == (
        "https://team1.blob.core.windows.net",
        "https://team1.queue.core.windows.net",
        "https://team1.table.core.windows.net",
    )
    assert (found.account_name, found.account_key, found.sas) == ("team1", KEY, None)


def test_names_are_read_in_any_case_and_unknown_ones_are_left_alone() -> None:
    found = resolve(f" accountname=team1 ; ACCOUNTKEY={KEY};Other=1;FileEndpoint=https://x;\n")
    assert (found.account_name, found.account_key) == ("team1", KEY)
    assert found.blob == "https://team1.blob.core.windows.net"


def test_a_sovereign_cloud_by_its_suffix() -> None:
    found = resolve(f"AccountName=team1;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn")
    assert found.table == "https://team1.table.core.chinacloudapi.cn"


def test_explicit_endpoints_and_a_signature() -> None:
    found = resolve(f"BlobEndpoint=https://team1.blob.core.windows.net/;SharedAccessSignature=?{SAS}")
    assert urls(found) == (
        "https://team1.blob.core.windows.net",
        "https://team1.queue.core.windows.net",
        "https://team1.table.core.windows.net",
    )
    assert (found.account_name, found.account_key, found.sas) == ("team1", None, SAS)


def test_the_emulator() -> None:
    found = resolve("UseDevelopmentStorage=true")
    assert urls(found) == (
        "http://127.0.0.1:10000/devstoreaccount1",
        "http://127.0.0.1:10001/devstoreaccount1",
        "http://127.0.0.1:10002/devstoreaccount1",
    )
    assert (found.account_name, found.account_key) == ("devstoreaccount1", DEVELOPMENT_KEY)
    other = resolve("UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://azurite")
    assert other.queue == "http://azurite:10001/devstoreaccount1"


@pytest.mark.parametrize(
    "given",
    [
        "https://team1.blob.core.windows.net",
        "https://team1.queue.core.windows.net/",
        "https://team1.table.core.windows.net",
        "https://team1.dfs.core.windows.net",
        "https://team1-secondary.blob.core.windows.net",
    ],
)
def test_any_service_of_the_account_tells_the_others(given: str) -> None:
    found = resolve(account_url=given)
    assert found.account_name == "team1"
    assert (found.queue, found.table) in (
        ("https://team1.queue.core.windows.net", "https://team1.table.core.windows.net"),
    )
    assert ".blob.core.windows.net" in found.blob


def test_dns_zones_and_sovereign_clouds_keep_their_suffix() -> None:
    found = resolve(account_url="https://team1.z07.blob.storage.azure.net")
    assert found.table == "https://team1.z07.table.storage.azure.net"
    found = resolve(queue_endpoint="https://team1.queue.core.usgovcloudapi.net")
    assert found.blob == "https://team1.blob.core.usgovcloudapi.net"


def test_an_explicit_endpoint_wins() -> None:
    found = resolve(f"AccountName=team1;AccountKey={KEY}", table_endpoint="https://tables.example.com:8443/")
    assert found.table == "https://tables.example.com:8443"
    assert found.blob == "https://team1.blob.core.windows.net"
    found = resolve(
        account_url="https://team1.blob.core.windows.net", blob_endpoint="https://files.example.com"
    )
    assert found.blob == "https://files.example.com"
    assert found.queue == "https://team1.queue.core.windows.net"


def test_a_url_may_carry_a_signature() -> None:
    found = resolve(account_url=f"https://team1.blob.core.windows.net/?{SAS}")
    assert (found.blob, found.sas) == ("https://team1.blob.core.windows.net", SAS)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("AccountName", "part 1"),
        (f"AccountName=team1;{KEY}", "part 2"),
        (f"AccountName=team1;AccountName=team2;AccountKey={KEY}", "AccountName"),
        (f"AccountKey={KEY}", "AccountName"),
        ("DefaultEndpointsProtocol=https", "AccountName"),
        (f"DefaultEndpointsProtocol=ftp;AccountName=team1;AccountKey={KEY}", "DefaultEndpointsProtocol"),
        ("AccountName=team1;AccountKey=s3cr3t!s3cr3t", "AccountKey"),
        (f"AccountName=team1;AccountKey={KEY}=", "AccountKey"),
        (f"BlobEndpoint=team1.blob.core.windows.net;AccountName=team1;AccountKey={KEY}", "BlobEndpoint"),
        ("BlobEndpoint=https://team1.blob.core.windows.net;SharedAccessSignature=s3cr3t", "Signature"),
        ("UseDevelopmentStorage=true;DevelopmentStorageProxyUri=azurite", "DevelopmentStorageProxyUri"),
        (f"BlobEndpoint=http://127.0.0.1:1/dev;AccountName=dev;AccountKey={KEY}", "queue_endpoint"),
        ("BlobEndpoint=https://files.example.com;SharedAccessSignature=" + SAS, "table_endpoint"),
    ],
)
def test_what_is_malformed_is_named_and_never_quoted(text: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        resolve(text)
    assert named in str(refused.value)
    assert refused.value.field
    assert refused.value.remedy
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value)
    assert "s3cr3t" not in shown
    assert KEY not in shown


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "connection_string"),
        (
            {"connection_string": "UseDevelopmentStorage=true", "account_url": "https://t.example"},
            "account_url",
        ),
        ({"account_url": "https://files.example.com"}, "queue_endpoint"),
        ({"account_url": "https://files.example.com", "queue_endpoint": "https://q.example.com"}, None),
        ({"account_url": "team1"}, "account_url"),
        ({"account_url": "https://team1.blob.core.windows.net:x"}, "account_url"),
        ({"account_url": "http://team1.blob.core.windows.net"}, "blob_endpoint"),
        ({"account_url": "https://team1.blob.core.windows.net", "credential": 5}, "credential"),
        ({"account_url": "https://team1.blob.core.windows.net", "credential": "no key!"}, "credential"),
    ],
    ids=repr,
)
def test_what_a_backend_can_not_work_with(arguments: dict[str, Any], field: str | None) -> None:
    with pytest.raises(ConfigurationError) as refused:
        AzureStorageBackend(**arguments)
    assert refused.value.field == (field or "table_endpoint")


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("BlobEndpoint=https://team1.blob.core.windows.net/container", "BlobEndpoint"),
        ("BlobEndpoint=https://team1.blob.core.windows.net/a/b/", "BlobEndpoint"),
        ("QueueEndpoint=https://team1.queue.core.windows.net/agent-tasks", "QueueEndpoint"),
        ("TableEndpoint=https://team1.table.core.windows.net/Tables", "TableEndpoint"),
        ("BlobEndpoint=http://127.0.0.1:10000/team1/container", "BlobEndpoint"),
        ("BlobEndpoint=https://files.example.com/container", "BlobEndpoint"),
        ("BlobEndpoint=https://files.example.com//team1", "BlobEndpoint"),
        ("BlobEndpoint=https://team1.queue.core.windows.net", "BlobEndpoint"),
        ("BlobEndpoint=https://team1.dfs.core.windows.net", "BlobEndpoint"),
        ("BlobEndpoint=https://team2.blob.core.windows.net", "BlobEndpoint"),
        ("BlobEndpoint=https://team1.blob.core.windows.net:8443", "queue_endpoint"),
        ("BlobEndpoint=https://files.example.com:8443", "queue_endpoint"),
        ("BlobEndpoint=http://localhost:10000", "queue_endpoint"),
        ("BlobEndpoint=http://10.0.0.7", "queue_endpoint"),
        ("BlobEndpoint=http://[::1]:10000/team1", "queue_endpoint"),
        ("BlobEndpoint=https://team1.blob.core.windows.net:99999", "BlobEndpoint"),
        ("BlobEndpoint=https://team1.blob.core.windows.net:0", "BlobEndpoint"),
        ("BlobEndpoint=https://[team1", "BlobEndpoint"),
        ("BlobEndpoint=https://team1 .blob.core.windows.net", "BlobEndpoint"),
        ("BlobEndpoint=https://team1.blob.core.windows.net\\x", "BlobEndpoint"),
        ("BlobEndpoint=https://me:s3cr3t@team1.blob.core.windows.net", "BlobEndpoint"),
        ("BlobEndpoint=", "BlobEndpoint"),
        ("BlobEndpoint=  ", "BlobEndpoint"),
        ("EndpointSuffix=https://core.windows.net", "EndpointSuffix"),
        ("EndpointSuffix=core.windows.net/", "EndpointSuffix"),
        ("EndpointSuffix=core.windows.net:443", "EndpointSuffix"),
        ("EndpointSuffix=core windows net", "EndpointSuffix"),
        ("EndpointSuffix=windows", "EndpointSuffix"),
        ("EndpointSuffix=", "EndpointSuffix"),
        ("DefaultEndpointsProtocol=", "DefaultEndpointsProtocol"),
        ("DefaultEndpointsProtocol=https://", "DefaultEndpointsProtocol"),
        ("SharedAccessSignature=", "SharedAccessSignature"),
        (f"SharedAccessSignature={SAS} s3cr3t", "SharedAccessSignature"),
        ("UseDevelopmentStorage=yes", "UseDevelopmentStorage"),
        ("UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://azurite:10000", "ProxyUri"),
        ("UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://azurite/x", "ProxyUri"),
        ("EndpointSufix=core.windows.net", "EndpointSuffix"),
        ("Blob Endpoint=https://team1.blob.core.windows.net", "BlobEndpoint"),
    ],
)
def test_a_part_that_can_not_work_is_named_at_the_start(part: str, named: str) -> None:
    """Beside a name and a key that are right."""
    with pytest.raises(ConfigurationError) as refused:
        AzureStorageBackend(f"AccountName=team1;AccountKey={KEY};{part}")
    assert named in f"{refused.value} {refused.value.field}"
    assert refused.value.remedy
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value) + refused.value.remedy
    assert "s3cr3t" not in shown
    assert KEY not in shown


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "team1/container",
        "/team1",
        "https://team1",
        "Team1",
        "team-1",
        "t1",
        "t" * 25,
        "team1.blob",
        "tëam",
    ],
)
def test_a_name_that_no_account_has_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="AccountName") as refused:
        AzureStorageBackend(f"AccountName={name};AccountKey={KEY}")
    assert refused.value.remedy


@pytest.mark.parametrize("key", ["", " ", "\t", "=", "==", "no base64!"])
def test_a_key_that_is_none_is_named(key: str) -> None:
    """An empty one must not fall back to an identity."""
    with pytest.raises(ConfigurationError, match="AccountKey") as refused:
        AzureStorageBackend(f"AccountName=team1;AccountKey={key}")
    assert refused.value.remedy


@pytest.mark.parametrize("argument", ["account_url", "blob_endpoint", "queue_endpoint", "table_endpoint"])
@pytest.mark.parametrize("behind", ["/container", "/a/b", ":x", ":99999", "#f", "\\x", " x"])
def test_arguments_are_checked_as_the_parts_are(argument: str, behind: str) -> None:
    service = argument.partition("_")[0].replace("account", "blob")
    with pytest.raises(ConfigurationError) as refused:
        AzureStorageBackend(**{argument: f"https://team1.{service}.core.windows.net{behind}"})
    assert refused.value.field == argument
    assert refused.value.remedy


def test_what_works_is_left_alone() -> None:
    emulator = (
        "BlobEndpoint=http://azurite:10000/acc-1;QueueEndpoint=http://azurite:10001/acc-1;"
        f"TableEndpoint=http://azurite:10002/acc-1;AccountName=acc-1;AccountKey={KEY}"
    )
    assert resolve(emulator).blob == "http://azurite:10000/acc-1"
    behind_a_proxy = emulator.replace("azurite:10000/", "proxy.example.com/azurite/")
    assert resolve(behind_a_proxy).blob == "http://proxy.example.com/azurite/acc-1"
    own_domain = resolve(f"BlobEndpoint=https://files.example.com;AccountName=team1;AccountKey={KEY}")
    assert own_domain.queue == "https://team1.queue.core.windows.net"
    usual_port = resolve(
        f"BlobEndpoint=https://team1.blob.core.windows.net:443/;AccountName=team1;AccountKey={KEY}"
    )
    assert usual_port.table == "https://team1.table.core.windows.net"
    secondary = "https://team1-secondary.blob.core.windows.net"
    whole = resolve(
        f"AccountName=team1;AccountKey={KEY};EndpointSuffix=.core.windows.net;UseDevelopmentStorage=false;"
        f"BlobSecondaryEndpoint={secondary};FileEndpoint=https://team1.file.core.windows.net"
    )
    assert whole.blob == "https://team1.blob.core.windows.net"
    assert resolve("UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://[::1]").queue == (
        "http://[::1]:10001/devstoreaccount1"
    )


def test_no_secret_is_shown() -> None:
    for backend in (
        AzureStorageBackend(f"AccountName=team1;AccountKey={KEY}"),
        AzureStorageBackend(account_url="https://team1.blob.core.windows.net", credential=KEY),
        AzureStorageBackend(account_url="https://team1.blob.core.windows.net", credential=SAS),
    ):
        shown = repr(backend) + repr(backend.endpoints)
        assert KEY not in shown
        assert "sig=" not in shown
        assert "team1" in shown


def test_a_credential_may_be_a_key_a_signature_or_give_tokens() -> None:
    url = "https://team1.blob.core.windows.net"

    class Named:
        named_key = ("team2", KEY)

    class Signed:
        signature = "?" + SAS

    class Token:
        def get_token(self, *scopes: str) -> None: ...

    def secrets(credential: Any) -> tuple[str, str | None, str | None]:
        found = AzureStorageBackend(account_url=url, credential=credential).endpoints
        return found.account_name, found.account_key, found.sas

    assert secrets(KEY) == ("team1", KEY, None)
    assert secrets("?" + SAS) == ("team1", None, SAS)
    assert secrets(Named()) == ("team2", KEY, None)
    assert secrets(Signed()) == ("team1", None, SAS)
    assert secrets(Token()) == ("team1", None, None)
    assert secrets(None) == ("team1", None, None)
