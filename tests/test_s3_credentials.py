"""Where the keys come from that requests to S3 are signed with, and what is said when there are none."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import SSOProvider
from botocore.utils import ContainerMetadataFetcher

from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.config import StorageConfig
from storage_lib.errors import AccessDeniedError, ConfigurationError, StorageError, StorageUnavailableError
from storage_lib.factory import build
from tests.s3_servers import ACCESS_KEY_ID, SECRET_ACCESS_KEY, S3Server
from tests.stub_service import Answer, Request, StubService

ROLE = "/latest/meta-data/iam/security-credentials/"
START_URL = "https://example.awsapps.com/start"
NOBODY = "http://127.0.0.1:1"


@dataclass
class Aws:
    """S3 and every service that keys come from. Each time it gives others: ``id1``, ``id2``, …"""

    minutes: float = 60
    given: int = 0
    broken: Answer | None = None
    held: asyncio.Event | None = None
    asked: list[Request] = field(default_factory=list[Request])
    signers: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, "str | None"]])
    """Of each request to S3 the access key and the session token."""

    async def answer(self, request: Request) -> Answer:
        if request.path.startswith("/bucket"):
            who = re.search(r"Credential=([^/]+)/", request.headers["authorization"])
            assert who is not None
            self.signers.append((who[1], request.headers.get("x-amz-security-token")))
            if "list-type" in request.target:
                return Answer(200, b"<ListBucketResult/>")
            return Answer(200, b"x", {"ETag": '"e"', "Last-Modified": "Wed, 25 Nov 2026 03:28:15 GMT"})
        self.asked.append(request)
        if self.held is not None:
            await self.held.wait()
        if self.broken is not None:
            return self.broken
        if request.path == "/latest/api/token":
            return Answer(200, b"instance-token")
        if request.path == ROLE:
            return Answer(200, b"the-role")
        self.given += 1
        end = datetime.now(UTC) + timedelta(minutes=self.minutes)
        at = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        key, secret, token = f"id{self.given}", "secret", f"token{self.given}"
        if request.path == "/":
            body = (
                "<AssumeRoleWithWebIdentityResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'>"
                f"<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId>"
                f"<SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>"
                f"<Expiration>{at}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
                "</AssumeRoleWithWebIdentityResponse>"
            )
            return Answer(200, body.encode())
        if request.path == "/federation/credentials":
            names = ("accessKeyId", "secretAccessKey", "sessionToken", "expiration")
            values = (key, secret, token, int(end.timestamp() * 1000))
            return Answer(
                200, json.dumps({"roleCredentials": dict(zip(names, values, strict=True))}).encode()
            )
        keys = {"AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": at}
        return Answer(200, json.dumps({"Code": "Success", **keys}).encode())


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that has no keys, and a home for files that have."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", str(tmp_path / "sso"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def from_keys(url: str, home: Path) -> Mapping[str, str]:
    return {"AWS_ACCESS_KEY_ID": "id1", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token1"}


def from_profile(url: str, home: Path) -> Mapping[str, str]:
    (home / "credentials").write_text(
        "[default]\naws_access_key_id=no\naws_secret_access_key=no\n"
        "[work]\naws_access_key_id=id1\naws_secret_access_key=secret\naws_session_token=token1\n"
    )
    return {"AWS_PROFILE": "work"}


def from_process(url: str, home: Path) -> Mapping[str, str]:
    keys = {"Version": 1, "AccessKeyId": "id1", "SecretAccessKey": "secret", "SessionToken": "token1"}
    (home / "keys.json").write_text(json.dumps(keys))
    (home / "config").write_text(f"[default]\ncredential_process = cat {home / 'keys.json'}\n")
    return {}


def from_web_identity(url: str, home: Path) -> Mapping[str, str]:
    (home / "jwt").write_text("header.payload.signature")
    return {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(home / "jwt"),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/agents",
        "AWS_ENDPOINT_URL_STS": url,
    }


def from_container(url: str, home: Path) -> Mapping[str, str]:
    (home / "token").write_text("authorization")
    return {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/container",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(home / "token"),
    }


def from_instance(url: str, home: Path) -> Mapping[str, str]:
    return {"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": url}


def from_sso(url: str, home: Path) -> Mapping[str, str]:
    (home / "config").write_text(
        "[profile sso]\nsso_account_id=123456789012\nsso_role_name=agents\nsso_region=eu-west-1\n"
        f"sso_start_url={START_URL}\n"
    )
    cached = home / "sso" / f"{hashlib.sha1(START_URL.encode()).hexdigest()}.json"  # noqa: S324
    cached.parent.mkdir()
    end = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    cached.write_text(json.dumps({"accessToken": "signed-in", "expiresAt": end}))
    return {"AWS_PROFILE": "sso", "AWS_ENDPOINT_URL_SSO": url}


SOURCES = [from_keys, from_profile, from_process, from_web_identity, from_container, from_instance, from_sso]


async def use(backend: S3StorageBackend) -> None:
    """One operation by each of the two ways to S3."""
    await backend.objects.get("k")
    await backend.objects.list_page()


@pytest.mark.parametrize("source", SOURCES)
async def test_both_ways_to_s3_are_signed_with_what_the_environment_has(
    source: Callable[[str, Path], Mapping[str, str]], nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws()
    async with StubService(aws.answer) as service:
        for name, value in source(service.endpoint, nothing_set).items():
            monkeypatch.setenv(name, value)
        backend = S3StorageBackend("bucket", endpoint=service.endpoint)
        await asyncio.gather(*(use(backend) for _ in range(4)))
        await use(backend)
        await backend.close()
    assert set(aws.signers) == {("id1", "token1")}
    shown = "".join(f"{request.headers}{request.body}" for request in aws.asked)
    if source is from_container:
        assert aws.asked[0].headers["authorization"] == "authorization"
    if source is from_instance:
        assert aws.asked[-1].headers["x-aws-ec2-metadata-token"] == "instance-token"
    if source is from_web_identity:
        assert "WebIdentityToken=header.payload.signature" in shown
        assert "header" not in aws.asked[0].target


async def test_given_keys_are_preferred_to_those_of_the_environment(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws()
    async with StubService(aws.answer) as service:
        for name, value in from_container(service.endpoint, nothing_set).items():
            monkeypatch.setenv(name, value)
        backend = S3StorageBackend(
            "bucket", endpoint=service.endpoint, access_key_id="mine", secret_access_key="s"
        )
        await use(backend)
        await backend.close()
    assert (set(aws.signers), aws.asked) == ({("mine", None)}, [])


@pytest.mark.parametrize("source", [from_web_identity, from_container, from_sso])
async def test_keys_are_renewed_before_they_end_while_the_event_loop_goes_on(
    source: Callable[[str, Path], Mapping[str, str]], nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(minutes=9)
    async with StubService(aws.answer) as service:
        for name, value in source(service.endpoint, nothing_set).items():
            monkeypatch.setenv(name, value)
        backend = S3StorageBackend("bucket", endpoint=service.endpoint)
        await use(backend)
        first = aws.given
        later = datetime.now(UTC) + timedelta(minutes=2)
        monkeypatch.setattr("storage_lib.backends.s3.credentials.datetime", Clock(later))
        aws.held = asyncio.Event()
        before = len(aws.asked)
        reading = asyncio.create_task(backend.objects.list_page())
        async with asyncio.timeout(120):
            while len(aws.asked) == before:  # answered by this event loop: nothing has blocked it
                await asyncio.sleep(0.01)
        assert not reading.done()
        aws.held.set()
        await reading
        assert aws.given > first
        assert aws.signers[-1] == (f"id{aws.given}", f"token{aws.given}")
        await backend.close()


class Clock:
    """A `datetime` whose now is always ``at``."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self, zone: Any) -> datetime:
        return self.at


@pytest.mark.parametrize(
    ("environment", "broken", "kind", "words"),
    [
        ({}, None, AccessDeniedError, "no AWS credentials"),
        ({"AWS_PROFILE": "nobody"}, None, ConfigurationError, "nobody"),
        ({"AWS_ACCESS_KEY_ID": "a"}, None, ConfigurationError, "AWS_SECRET_ACCESS_KEY"),
        (
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/keys"},
            None,
            ConfigurationError,
            "example.com",
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": NOBODY}, None, StorageUnavailableError, "credentials"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "URL"}, Answer(200, b"{}"), AccessDeniedError, "AccessKeyId"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "URL"}, Answer(403, b"no"), AccessDeniedError, "403"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "URL"}, Answer(503), StorageUnavailableError, "503"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "URL"}, Answer(429), StorageUnavailableError, "429"),
        ({"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": NOBODY}, None,
         AccessDeniedError, "no AWS credentials"),
        ({"AWS_ROLE_ARN": "r" * 20, "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere"}, None, ConfigurationError,
         "/nowhere"),
        ({"AWS_ROLE_ARN": "r" * 20, "AWS_WEB_IDENTITY_TOKEN_FILE": __file__, "AWS_ENDPOINT_URL_STS": "URL"},
         Answer(403, b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"),
         AccessDeniedError, "AccessDenied"),
        ({"AWS_ROLE_ARN": "r" * 20, "AWS_WEB_IDENTITY_TOKEN_FILE": __file__, "AWS_ENDPOINT_URL_STS": "URL"},
         Answer(503), StorageUnavailableError, "503"),
        ({"AWS_ROLE_ARN": "r" * 20, "AWS_WEB_IDENTITY_TOKEN_FILE": __file__, "AWS_ENDPOINT_URL_STS": NOBODY},
         None, StorageUnavailableError, "credentials"),
    ],
    ids=[
        "nothing", "profile", "half", "container elsewhere", "container gone", "container empty",
        "container refuses", "container broken", "container busy", "instance gone", "no token",
        "role refused", "sts broken", "sts gone",
    ],
)  # fmt: skip
async def test_without_keys_it_is_said_why(
    environment: Mapping[str, str],
    broken: Answer | None,
    kind: type[StorageError],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)  # between the attempts of botocore
    aws = Aws(broken=broken)
    async with StubService(aws.answer) as service:
        for name, value in environment.items():
            monkeypatch.setenv(name, value.replace("URL", service.endpoint))
        backend = S3StorageBackend("bucket", endpoint=service.endpoint)
        for call in (
            lambda: backend.objects.get("k"),
            lambda: backend.objects.put("k", b"x"),
            lambda: backend.objects.list_page(),
            lambda: backend.objects.delete("k"),
        ):
            with pytest.raises(kind, match=re.escape(words)) as refused:
                await call()
            assert type(refused.value) is kind
        await backend.close()
    assert aws.signers == []


async def test_a_process_that_fails_and_a_sign_in_that_has_ended_are_no_moment(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nothing_set / "config").write_text("[default]\ncredential_process = false\n")
    backend = S3StorageBackend("bucket", endpoint=NOBODY)
    with pytest.raises(AccessDeniedError, match="custom-process"):
        await backend.objects.get("k")
    await backend.close()
    for name, value in from_sso(NOBODY, nothing_set).items():
        monkeypatch.setenv(name, value)
    for cached in (nothing_set / "sso").iterdir():
        cached.write_text(cached.read_text().replace("20", "19"))
    backend = S3StorageBackend("bucket", endpoint=NOBODY)
    with pytest.raises(AccessDeniedError) as refused:
        await backend.objects.get("k")
    assert "aws sso login" in (refused.value.remedy or "")
    await backend.close()


async def test_no_secret_is_shown() -> None:
    aws = Aws()
    async with StubService(aws.answer) as service:
        backend = S3StorageBackend(
            "bucket", endpoint=service.endpoint, access_key_id="a", secret_access_key="not-to-be-seen"
        )
        await use(backend)
        assert "not-to-be-seen" not in repr(await backend._client.credentials.get()) + repr(backend)
        await backend.close()


async def test_a_host_in_capitals_is_signed_as_it_is_sent(seaweedfs: S3Server) -> None:
    async with S3StorageBackend(
        "capitals",
        endpoint=seaweedfs.endpoint.replace("127.0.0.1", "LOCALHOST"),
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        create_bucket=True,
    ) as backend:
        await backend.objects.put("k", b"x")
        assert [entry.key for entry in (await backend.objects.list_page()).entries] == ["k"]


@pytest.mark.parametrize("kind", ["sync", "async", "async object"])
async def test_a_provider_gives_the_keys(seaweedfs: S3Server, kind: str) -> None:
    asked = 0

    def keys() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        end = datetime.now(UTC) + timedelta(hours=1)
        return {
            "access_key_id": ACCESS_KEY_ID,
            "secret_access_key": SECRET_ACCESS_KEY,
            "token": None,
            "expires_at": end,
        }

    async def keys_later() -> dict[str, Any]:
        return keys()

    class Later:
        async def __call__(self) -> dict[str, Any]:
            return keys()

    provider: Any = {"sync": keys, "async": keys_later, "async object": Later()}[kind]
    async with S3StorageBackend(
        "provided", endpoint=seaweedfs.endpoint, credential_provider=provider, create_bucket=True
    ) as backend:
        for _ in range(3):
            await backend.objects.put("k", b"x")
        assert len((await backend.objects.list_page()).entries) == 1
    assert asked == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_provider_is_asked_once_for_all_who_wait(kind: str) -> None:
    asked = 0

    def keys() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"access_key_id": "a", "secret_access_key": "b"}

    async def keys_later() -> dict[str, Any]:
        await asyncio.sleep(0.05)  # a slow vault
        return keys()

    async with StubService(lambda _: Answer(200, b"<ListBucketResult></ListBucketResult>")) as service:
        provider: Any = {"sync": keys, "async": keys_later}[kind]
        backend = S3StorageBackend("bucket", endpoint=service.endpoint, credential_provider=provider)
        first = asyncio.create_task(backend.objects.list_page())
        for _ in range(10):
            await asyncio.sleep(0)
        others = [asyncio.create_task(backend.objects.list_page()) for _ in range(9)]
        first.cancel()
        assert [page.entries for page in await asyncio.gather(*others)] == [[]] * 9
        assert asked == 1
        await backend.close()


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (OSError("vault is sealed"), StorageUnavailableError),
        (RuntimeError("vault is sealed"), AccessDeniedError),
        (StorageUnavailableError("vault is sealed"), StorageUnavailableError),
        (LookupError("vault is sealed"), StorageUnavailableError),
        (None, AccessDeniedError),
    ],
    ids=["no answer", "refused", "an error of ours", "an error of its own", "no keys"],
)
async def test_a_provider_that_fails_is_told_as_it_is(
    failure: Exception | None, kind: type[StorageError]
) -> None:
    def keys() -> dict[str, Any]:
        if failure is not None:
            raise failure
        return {"access_key_id": "a"}

    async def keys_later() -> dict[str, Any]:
        return keys()

    for provider in (keys, keys_later):
        backend = S3StorageBackend("bucket", endpoint=NOBODY, credential_provider=provider)
        for call in (backend.objects.get("k"), backend.objects.list_page()):
            with pytest.raises(kind, match="vault is sealed" if failure else "secret_access_key"):
                await call
        await backend.close()


@pytest.mark.parametrize(
    "ends", [datetime.max, 2208988800, "2040-01-01T00:00:00Z"], ids=["no zone", "number", "text"]
)
async def test_an_expiry_without_a_time_zone_is_refused(ends: Any) -> None:
    def keys() -> dict[str, Any]:
        return {"access_key_id": "a", "secret_access_key": "b", "expires_at": ends}

    backend = S3StorageBackend("bucket", endpoint=NOBODY, credential_provider=keys)
    for call in (backend.objects.get("k"), backend.objects.list_page()):
        with pytest.raises(ConfigurationError, match="expires_at") as refused:
            await call
        assert refused.value.field == "credential_provider"
    await backend.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: S3StorageBackend("bucket"),
        lambda: build(StorageConfig(storage_type="s3", s3_bucket="bucket", tables_and_queues="file")),
    ],
    ids=["backend", "configuration"],
)
def test_without_the_extra_it_is_said_what_to_install(
    make: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "storage_lib.backends.s3.credentials.find_spec",
        lambda name: None if name == "botocore" else find(name),
    )
    with pytest.raises(ConfigurationError, match="botocore") as refused:
        make()
    assert refused.value.field == "storage_type"
    assert "pip install 'agent-storage[s3]'" in (refused.value.remedy or "")
