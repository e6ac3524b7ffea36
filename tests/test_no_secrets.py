"""No secret is in a log, an error, an answer, a trace or a metric: secrets are planted wherever a request or
a configuration can have one, things are made to fail, and everything that comes out is searched."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from functions.state import AppState
from storage_lib.access import source
from storage_lib.config import AuditOptions, MetricsOptions, StorageConfig
from storage_lib.errors import StorageError, StorageUnavailableError
from storage_lib.factory import build
from tests.http_app import serve
from tests.spans import Spans, spans
from tests.stub_service import Answer, Request, StubService

__all__ = ["spans"]

SECRET = "planted/secret+0123456789abcdefghij"
ENCODED = base64.b64encode(b"planted-secret-planted-secret-32").decode()
FORMS = {
    SECRET,
    ENCODED,
    quote(SECRET, safe=""),
    quote(SECRET),
    quote(ENCODED, safe=""),
    base64.b64encode(SECRET.encode()).decode(),
    "planted/secret",
}


class Seen:
    """All that came out."""

    def __init__(self, caplog: pytest.LogCaptureFixture, spans: Spans | None) -> None:
        self._caplog, self._spans = caplog, spans
        self.texts: list[str] = []

    def add(self, *found: object) -> None:
        self.texts.extend(str(each) for each in found)

    def check(self) -> None:
        shown = logging.Formatter("%(name)s %(levelname)s %(message)s")
        logged = [shown.format(record) for record in self._caplog.records]
        traced = [] if self._spans is None else [span.to_json() for span in self._spans.all]
        for text in (*self.texts, *logged, *traced):
            for secret in FORMS:
                assert secret not in text, text[max(0, text.index(secret) - 300) : text.index(secret) + 100]


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture, spans: Spans) -> Seen:
    caplog.set_level(logging.DEBUG)
    return Seen(caplog, spans)


# --- requests

HEADERS = {
    "x-functions-key": SECRET,
    "Authorization": f"Bearer {SECRET}",
    "Cookie": f"AppServiceAuthSession={SECRET}",
    "x-ms-client-principal": base64.b64encode(json.dumps({"claims": SECRET}).encode()).decode(),
    "x-ms-token-aad-access-token": SECRET,
    "x-ms-token-aad-id-token": SECRET,
    "Proxy-Authorization": f"Basic {base64.b64encode(SECRET.encode()).decode()}",
    "Ocp-Apim-Subscription-Key": SECRET,
    "X-Api-Key": SECRET,
}
QUERIES = [
    f"code={quote(SECRET, safe='')}",
    f"CODE={quote(SECRET, safe='')}",
    f"sig={quote(SECRET, safe='')}&sv=2024-11-04",
    f"token={quote(SECRET, safe='')}",
    f"code={quote(SECRET, safe='')}&limit=x",
    f"receipt={quote(SECRET, safe='')}",
    f"code={quote(SECRET, safe='')}&code=x",
    f"code={quote(SECRET, safe='')}%FF",
]
ROUTES = [
    ("GET", "/api/objects/a"),
    ("PUT", "/api/objects/a"),
    ("PATCH", "/api/objects/a"),
    ("DELETE", "/api/objects/a"),
    ("GET", "/api/objects"),
    ("POST", "/api/batch"),
    ("POST", "/api/tasks"),
    ("GET", "/api/tasks/none"),
    ("GET", "/api/tables/t"),
    ("POST", "/api/tables/t"),
    ("POST", "/api/queues/q-a/messages"),
    ("DELETE", "/api/queues/q-a/messages/a"),
    ("GET", "/api/health/ready"),
    ("GET", "/api/health/live"),
    ("GET", "/api/metrics"),
]
BODIES = {
    "/api/batch": b'{"operations": [{"op": "load", "key": "a"}]}',
    "/api/tasks": b'{"action": "analyze_report", "agent_id": "ceo"}',
    "/api/tables/t": b'{"PartitionKey": "p", "RowKey": "r"}',
    "/api/queues/q-a/messages": b'{"body": "a"}',
}


@pytest.mark.parametrize(
    ("health", "policy"),
    [
        *(("fine", policy) for policy in ("none", "file", "invalid", "with tokens")),
        ("unavailable", "none"),
        ("broken", "file"),
    ],
)
async def test_of_a_request(
    seen: Seen, health: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of it: an answer, a refusal, or an error of the store or of the app."""
    monkeypatch.setattr(source, "RELOAD_SECONDS", 0.0)
    if policy != "none":
        document: dict[str, Any] = {"principals": {"anonymous": {"may": {"load": ["a"], "list": [""]}}}}
        if policy == "invalid":
            # The key itself, where its digest belongs.
            document = {"keys": {"ceo": SECRET, "cto": [SECRET, ENCODED]}, "principals": {}}
        (tmp_path / "policy.json").write_text(json.dumps(document))
        monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(tmp_path / "policy.json"))
    if policy == "with tokens":
        monkeypatch.setenv("AGENT_STORAGE_ACCESS_ISSUER", "http://127.0.0.1:1/issuer")
        monkeypatch.setenv("AGENT_STORAGE_ACCESS_AUDIENCE", "app")
    config = StorageConfig(
        storage_type="memory",
        retry_attempts=1,
        metrics=MetricsOptions(traces=True),
        audit=AuditOptions(sink="log", operations="all"),
    )
    async with serve(monkeypatch, config) as app:
        await app.storage.save("a", 1)
        if health != "fine":
            error = StorageUnavailableError if health == "unavailable" else RuntimeError

            async def fails(*_: Any, **__: Any) -> Any:
                raise error("the store is away")

            driver = app.storage.backend.objects.driver
            for name in ("get", "put", "list", "head"):
                if hasattr(driver, name):
                    monkeypatch.setattr(driver, name, fails)
        for method, path in app.every_route():
            body = BODIES.get(path, b"1") if method in ("PUT", "PATCH", "POST") else b""
            for query in QUERIES if (method, path) in ROUTES else ("", QUERIES[2]):
                answer = await app(
                    method,
                    f"{path}?{query}" if query else path,
                    body,
                    HEADERS | {"Content-Type": "application/json"},
                )
                seen.add(answer.status, dict(answer.headers), answer.body.decode(errors="replace"))
        metrics = await app("GET", "/api/metrics")
        seen.add(metrics.body.decode())
    seen.check()


# --- services


def sas(endpoint: str) -> str:
    places = ";".join(f"{name}Endpoint={endpoint}/acct" for name in ("Blob", "Queue", "Table"))
    signed = f"sv=2024-11-04&ss=bqt&srt=sco&sp=rwdlacup&sig={quote(ENCODED, safe='')}"
    return f"{places};SharedAccessSignature={signed}"


def shared_key(endpoint: str) -> str:
    places = ";".join(f"{name}Endpoint={endpoint}/acct" for name in ("Blob", "Queue", "Table"))
    return f"DefaultEndpointsProtocol=http;AccountName=acct;AccountKey={ENCODED};{places}"


def config_of(store: str, endpoint: str, folder: Path) -> StorageConfig:
    metrics = MetricsOptions(traces=True)
    if store == "s3":
        return StorageConfig(
            storage_type="s3",
            s3_bucket="agents",
            s3_endpoint=endpoint,
            s3_region="us-east-1",
            s3_access_key_id="AKID",
            s3_secret_access_key=SECRET,
            tables_and_queues="file",
            base_path=folder,
            retry_attempts=1,
            metrics=metrics,
        )
    connection = (sas if store == "SAS" else shared_key)(endpoint)
    return StorageConfig(
        storage_type="azure", connection_string=connection, retry_attempts=1, metrics=metrics
    )


@pytest.mark.parametrize("answers", ["nothing", "403", "500", "junk"])
@pytest.mark.parametrize("store", ["SAS", "account key", "s3"])
async def test_of_a_store_that_repeats_what_it_is_sent(
    seen: Seen, store: str, answers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As proxies and gateways do on their error pages, with the URL and all headers."""

    def echo(request: Request) -> Answer:
        told = f"{request.method} {request.target} {dict(request.headers)}"
        if answers == "junk":
            return Answer(200, told.encode())
        text = f"<Error><Code>AuthenticationFailed</Code><Message>{told}</Message></Error>"
        return Answer(int(answers), text.encode())

    async with StubService(echo) as service:
        endpoint = "http://127.0.0.1:1" if answers == "nothing" else service.endpoint
        config = config_of(store, endpoint, tmp_path)
        seen.add(repr(config), config)
        async with serve(monkeypatch, config) as app:
            for method, path in ROUTES:
                body = BODIES.get(path, b"1") if method in ("PUT", "PATCH", "POST") else b""
                answer = await app(method, path, body, {"Content-Type": "application/json"})
                seen.add(answer.status, dict(answer.headers), answer.body.decode(errors="replace"))
            seen.add(repr(app.storage.backend), repr(app.storage))
            for call in (
                app.storage.load("a"),
                app.storage.save("a", 1),
                app.storage.backend.tables.get("t", "p", "r"),
                app.storage.backend.queues.send("q-a", "x"),
            ):
                try:
                    await call
                except StorageError as error:
                    seen.add(*traceback.format_exception(error), repr(error))
    seen.check()


# --- configurations

OF_SECRETS = (
    "AgentStorage",
    "AGENT_STORAGE_AUDIT_KEY",
    "AGENT_STORAGE_ENCRYPTION_FERNET_KEYS",
    "AGENT_STORAGE_ENCRYPTION_KEYS",
    "AGENT_STORAGE_FALLBACK_CONNECTION",
    "AGENT_STORAGE_FALLBACK_S3_SECRET_ACCESS_KEY",
    "AGENT_STORAGE_HTTP_KEY",
    "AGENT_STORAGE_S3_SECRET_ACCESS_KEY",
    "AGENT_STORAGE_SIGNING_KEY",
)
OF_URLS = (
    "AGENT_STORAGE_FALLBACK_ACCOUNT_URL",
    "AGENT_STORAGE_FALLBACK_S3_ENDPOINT",
    "AGENT_STORAGE_HTTP_URL",
    "AGENT_STORAGE_S3_ENDPOINT",
    "AgentStorage__blobServiceUri",
    "AgentStorage__queueServiceUri",
    "AgentStorage__tableServiceUri",
)
SECRETS = [
    *(SECRET, ENCODED, f"AccountKey={ENCODED}", f"AccountName=a;AccountKey={ENCODED}", f"id:{SECRET}"),
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={ENCODED};EndpointSuffix=x y",
    *(
        f"SharedAccessSignature=sv=1&sig={ENCODED}",
        f"BlobEndpoint=no url;SharedAccessSignature=sig={ENCODED}",
    ),
    *(
        f"id:{ENCODED}",
        f"id:{ENCODED}x",
        f"{ENCODED},{ENCODED}",
        f"a\n{SECRET}",
        f"id:{ENCODED},id:{ENCODED}",
    ),
]
URLS = [
    f"https://user:{ENCODED}@host/api",
    f"https://host/api?code={ENCODED}",
    f"https://host/api#{ENCODED}",
    f"https://a.blob.core.windows.net/c?sv=1&sig={ENCODED}",
    f"user:{ENCODED}@host",
]
AROUND: list[dict[str, str]] = [
    {},
    {"AGENT_STORAGE_TYPE": "azure", "AgentStorage": "UseDevelopmentStorage=true"},
    {"AGENT_STORAGE_TYPE": "azure"},
    {"AGENT_STORAGE_TYPE": "s3", "AGENT_STORAGE_S3_BUCKET": "agents"},
    {"AGENT_STORAGE_TYPE": "http", "AGENT_STORAGE_HTTP_URL": "https://host/api"},
    {"AGENT_STORAGE_ENCRYPTION": "true", "AGENT_STORAGE_AUDIT": "file", "AGENT_STORAGE_ALLOW_PICKLE": "true"},
    {"AGENT_STORAGE_FALLBACK": "fallback", "AGENT_STORAGE_FALLBACK_TYPE": "azure"},
    {"AGENT_STORAGE_FALLBACK": "mirror", "AGENT_STORAGE_FALLBACK_TYPE": "s3"},
]


@pytest.mark.parametrize("setting", [*OF_SECRETS, *OF_URLS])
def test_of_a_setting(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Right or wrong, whatever is around it: in no error and in no representation."""
    caplog.set_level(logging.DEBUG)
    seen = Seen(caplog, None)
    for value in SECRETS if setting in OF_SECRETS else URLS:
        for around in AROUND:
            with monkeypatch.context() as variables:
                for name, given in (
                    {"AGENT_STORAGE_PATH": str(tmp_path)} | around | {setting: value}
                ).items():
                    variables.setenv(name, given)
                try:
                    app = AppState(StorageConfig.from_env())
                    seen.add(repr(app.config), str(app.config))
                    app.check_settings()
                    seen.add(repr(build(app.config)))
                except (StorageError, ValueError) as error:
                    seen.add(*traceback.format_exception(error), repr(error))
                    if isinstance(error, StorageError):
                        seen.add(error.explained(), error.limit, error.remedy)
    seen.check()
