"""Signatures against the published examples, and where keys come from."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.backends.s3.credentials import Credential, Credentials, from_environment
from storage_lib.backends.s3.signing import encode_query, sign
from storage_lib.errors import AccessDeniedError, ConfigurationError, StorageUnavailableError
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server

# "Authenticating Requests: Using the Authorization Header", examples (Amazon S3 API reference).
EXAMPLE = Credential("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = "https://examplebucket.s3.amazonaws.com"
THEN = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("method", "url", "headers", "body", "signature"),
    [
        (
            "GET",
            f"{HOST}/test.txt",
            {"Range": "bytes=0-9"},
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            f"{HOST}/test%24file.text",
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            f"{HOST}/?lifecycle=",
            {},
            b"",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            f"{HOST}/?{encode_query({'prefix': 'J', 'max-keys': '2'})}",
            {},
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_signatures_are_the_published_ones(
    method: str, url: str, headers: dict[str, str], body: bytes, signature: str
) -> None:
    signed = sign(method, url, headers, body, EXAMPLE, "us-east-1", THEN)
    assert signed["authorization"].endswith(f"Signature={signature}")


class Service(BaseHTTPRequestHandler):
    """STS, the endpoint of a container and that of an instance in one; ``seen`` has what was asked."""

    seen: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []
    minutes = 60

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_POST = do_GET  # noqa: N815 - names of the base class

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        )
        end = (datetime.now(UTC) + timedelta(minutes=self.minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": "id", "SecretAccessKey": "secret", "Token": "token", "Expiration": end}
        answers = {
            "/container": json.dumps(keys),
            "/latest/api/token": "instance-token",
            "/latest/meta-data/iam/security-credentials/": "the-role\n",
            "/latest/meta-data/iam/security-credentials/the-role": json.dumps(keys),
            "/": "<AssumeRoleWithWebIdentityResponse xmlns='x'><Credentials><AccessKeyId>id</AccessKeyId>"
            f"<SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>"
            f"<Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResponse>",
            "/empty": "{}",
        }
        answer = answers.get(self.path)
        self.send_response(200 if answer is not None else 403)
        self.end_headers()
        self.wfile.write((answer or "no").encode())


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    Service.seen, Service.minutes = [], 60
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_keys_of_the_environment_come_first(service: str) -> None:
    found = from_environment(
        {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_SESSION_TOKEN": "c",
            "AWS_METADATA_ENDPOINT": service,
        },
        REGION,
    )
    assert found == Credential("a", "b", "c")
    assert Service.seen == []


def test_a_container_asks_its_endpoint(service: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("authorization\n")
    found = from_environment(
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service}/container",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
        },
        REGION,
    )
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("id", "secret", "token")
    assert Service.seen[0][2]["authorization"] == "authorization"
    with pytest.raises(ConfigurationError):
        from_environment({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/keys"}, REGION)


def test_an_instance_asks_for_its_role_with_a_token(service: str) -> None:
    found = from_environment({"AWS_METADATA_ENDPOINT": service}, REGION)
    assert found.session_token == "token"
    assert [(seen[0], seen[1].rpartition("/")[2]) for seen in Service.seen] == [
        ("PUT", "token"),
        ("GET", ""),
        ("GET", "the-role"),
    ]
    assert Service.seen[2][2]["x-aws-ec2-metadata-token"] == "instance-token"


def test_a_web_identity_is_exchanged(service: str, tmp_path: Path) -> None:
    (tmp_path / "jwt").write_text("header.payload.signature")
    environ = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "jwt"),
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
        "AWS_ENDPOINT_URL_STS": service,
    }
    found = from_environment(environ, REGION)
    assert found.session_token == "token"
    assert b"WebIdentityToken=header.payload.signature" in Service.seen[0][3]
    assert "header" not in Service.seen[0][1]
    with pytest.raises(ConfigurationError):
        from_environment({**environ, "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "none")}, REGION)


def test_without_any_source_access_is_denied(service: str) -> None:
    for environ in (
        {"AWS_EC2_METADATA_DISABLED": "true"},
        {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:1"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service}/empty"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service}/forbidden"},
    ):
        with pytest.raises(AccessDeniedError):
            from_environment(environ, REGION)
    with pytest.raises(StorageUnavailableError):
        from_environment({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/x"}, REGION)


async def test_keys_are_kept_until_shortly_before_their_end(service: str) -> None:
    credentials = Credentials(None, None, REGION, {"AWS_METADATA_ENDPOINT": service})
    Service.minutes = 3
    await credentials.get()
    assert len(Service.seen) == 3
    Service.minutes = 60
    await credentials.get()
    await credentials.get()
    assert len(Service.seen) == 6
    assert "secret" not in repr(await credentials.get())


@pytest.mark.parametrize("kind", ["sync", "async"])
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

    provider: Any = keys if kind == "sync" else keys_later
    async with S3StorageBackend(
        "provided", endpoint=seaweedfs.endpoint, credential_provider=provider, create_bucket=True
    ) as backend:
        for _ in range(3):
            await backend.objects.put("k", b"x")
        assert len((await backend.objects.list_page()).entries) == 1
    assert asked == 1


async def test_failing_to_get_keys_is_not_a_missing_object(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    backend = S3StorageBackend("provided", endpoint=seaweedfs.endpoint)
    for call in (backend.objects.get("k"), backend.objects.put("k", b"x"), backend.objects.list_page()):
        with pytest.raises(AccessDeniedError, match="credentials"):
            await call
    await backend.close()
