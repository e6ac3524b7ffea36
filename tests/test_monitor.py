"""Telemetry to Application Insights: what the exporter really sends, to a stub of its ingestion service."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError
from tests.conftest import PROJECT
from tests.monitored_app import HOST

KEY = str(uuid.UUID(int=7))
TOKEN = "token-of-the-identity"


def is_span(envelope: dict[str, Any]) -> bool:
    return envelope["data"]["baseType"] == "RemoteDependencyData"


class Ingestion:
    """Takes envelopes as Application Insights does, and gives tokens as App Service does."""

    def __init__(self) -> None:
        self.envelopes: list[dict[str, Any]] = []
        self.refusals: list[int] = []
        """The statuses of the next answers to batches that have spans."""
        self.batches: list[tuple[float, Any, int, list[tuple[str, str, str]]]] = []
        """When each batch came, from where, how it was answered, and the spans in it: name, id, time."""
        self.other: list[str] = []
        self.authorizations: set[str | None] = set()
        self.asked: list[dict[str, str]] = []

    async def take(self, request: web.Request) -> web.Response:
        if request.path.endswith("/track"):
            body = await request.read()
            if body[:2] == b"\x1f\x8b":
                body = gzip.decompress(body)
            sent = [json.loads(line) for line in body.splitlines()] if body[:1] == b"{" else json.loads(body)
            self.envelopes += sent
            self.authorizations.add(request.headers.get("authorization"))
            spans = [(each["data"]["baseData"], each["time"]) for each in sent if is_span(each)]
            status = self.refusals.pop(0) if spans and self.refusals else 200
            peer = request.transport and request.transport.get_extra_info("peername")
            self.batches.append(
                (time.time(), peer, status, [(data["name"], data["id"], at) for data, at in spans])
            )
            if status != 200:
                return web.json_response({}, status=status, headers={"Retry-After": "1"})
            taken = {"itemsReceived": len(sent), "itemsAccepted": len(sent), "errors": []}
            return web.json_response(taken)
        if request.path == "/identity":
            self.asked.append(dict(request.query))
            expires = 4_102_444_800
            return web.json_response(
                {"access_token": TOKEN, "expires_on": str(expires), "resource": "r", "token_type": "Bearer"}
            )
        self.other.append(request.path)
        return web.Response(status=404)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.envelopes if each["data"]["baseType"] == kind]


@asynccontextmanager
async def served(ingestion: Ingestion, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", ingestion.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def environment(folder: Path, url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return {
        **kept,
        "PYTHONPATH": str(PROJECT),
        "TMPDIR": str(folder),
        "AGENT_STORAGE_TYPE": "file",
        "AGENT_STORAGE_PATH": str(folder / "data"),
        "AGENT_STORAGE_METRICS": "true",
        "AGENT_STORAGE_METRICS_TRACES": "true",
        "AGENT_STORAGE_METRICS_AZURE_MONITOR": "true",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": f"InstrumentationKey={KEY};IngestionEndpoint={url}",
        "OTEL_TRACES_SAMPLER": "always_on",
        "WEBSITE_SITE_NAME": "func-of-the-test",
        "FLUSH_SECONDS": "60",
        **more,
    }


async def use(env: dict[str, str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.monitored_app"),
        cwd=PROJECT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return {**json.loads(out.splitlines()[-1]), "stderr": err.decode()}


async def test_spans_and_metrics_arrive_once_and_nothing_else(tmp_path: Path) -> None:
    ingestion = Ingestion()
    async with served(ingestion) as port:
        used = await use(environment(tmp_path, f"http://127.0.0.1:{port}/"))
    # What an earlier process could not send is in a folder of its own, or it would arrive here.
    assert list(tmp_path.glob("Microsoft-AzureMonitor-*"))
    assert used["statuses"][:2] == [404, 201]
    # Only the spans' API at the first request, and the 800 ms of the rest in a thread.
    assert used["early"] == []
    spans = ingestion.of("RemoteDependencyData")
    names = [each["data"]["baseData"]["name"] for each in spans]
    assert names.count("PUT /api/objects/{*key}") == 1, ingestion.batches
    assert names.count("put objects") == 1, ingestion.batches
    ids = [each["data"]["baseData"]["id"] for each in spans]
    assert len(set(ids)) == len(ids), ingestion.batches
    # The platform reports the request itself.
    assert ingestion.of("RequestData") == []
    assert ingestion.of("MessageData") == []
    put = next(each for each in spans if each["data"]["baseData"]["name"] == "put objects")
    request = next(each for each in spans if each["data"]["baseData"]["name"] == "PUT /api/objects/{*key}")
    assert request["tags"]["ai.operation.id"] == HOST.split("-")[1]
    assert request["tags"]["ai.operation.parentId"] == HOST.split("-")[2]
    assert put["tags"]["ai.operation.parentId"] == request["data"]["baseData"]["id"]
    assert put["data"]["baseData"]["properties"]["agent_storage.object.key"] == "a/b"
    assert {each["tags"]["ai.cloud.role"] for each in spans} == {"func-of-the-test"}
    metrics = {
        point["name"] for each in ingestion.of("MetricData") for point in each["data"]["baseData"]["metrics"]
    }
    assert {"db.client.operation.duration", "agent_task.ended"} <= metrics
    assert {each["iKey"] for each in ingestion.envelopes} == {KEY}
    assert ingestion.other == []
    assert ingestion.authorizations == {None}


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refused_batch_is_sent_again_with_the_same_ids(tmp_path: Path, status: int) -> None:
    """The exporter sends at least once: what it repeats can be told by the id and the time of the span."""
    ingestion = Ingestion()
    ingestion.refusals = [status]
    async with served(ingestion) as port:
        await use(environment(tmp_path, f"http://127.0.0.1:{port}/"))
    (refused,) = [spans for _, _, answered, spans in ingestion.batches if answered == status]
    taken = [spans for _, _, answered, spans in ingestion.batches if spans and answered == 200]
    assert taken.count(refused) == 1, ingestion.batches
    names = [name for spans in taken for name, _, _ in spans]
    assert names.count("PUT /api/objects/{*key}") == 1, ingestion.batches


async def test_the_identity_of_the_app_signs_in(tmp_path: Path) -> None:
    """As provisioned: local authentication is off, and the setting names the identity."""
    certificate, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    ingestion = Ingestion()
    async with served(ingestion, context) as port, served(ingestion) as identity:
        await use(
            environment(
                tmp_path,
                f"https://127.0.0.1:{port}/",
                APPLICATIONINSIGHTS_AUTHENTICATION_STRING="ClientId=of-the-app;Authorization=AAD",
                IDENTITY_ENDPOINT=f"http://127.0.0.1:{identity}/identity",
                IDENTITY_HEADER="secret-of-the-platform",
                REQUESTS_CA_BUNDLE=str(certificate),
            )
        )
    assert ingestion.of("RemoteDependencyData")
    assert ingestion.authorizations == {f"Bearer {TOKEN}"}
    assert {each.get("client_id") for each in ingestion.asked} == {"of-the-app"}


@pytest.mark.parametrize("connection", ["", "nonsense", "IngestionEndpoint=http://127.0.0.1:1/"])
def test_without_a_connection_string_the_setting_is_refused(connection: str) -> None:
    env = {
        "AGENT_STORAGE_METRICS": "true",
        "AGENT_STORAGE_METRICS_AZURE_MONITOR": "true",
        "APPLICATIONINSIGHTS_CONNECTION_STRING": connection,
    }
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig.from_env(env)
    assert refused.value.field == "AGENT_STORAGE_METRICS_AZURE_MONITOR"
    assert "APPLICATIONINSIGHTS_CONNECTION_STRING" in str(refused.value)


async def test_an_unreachable_service_harms_nobody(tmp_path: Path) -> None:
    ingestion = Ingestion()
    async with served(ingestion) as port:
        pass
    used = await use(environment(tmp_path, f"http://127.0.0.1:{port}/", FLUSH_SECONDS=""))
    assert used["statuses"][:2] == [404, 201]


@pytest.mark.parametrize("stopped", ["by the host", "at once"])
async def test_a_service_that_does_not_answer_holds_nobody_up(tmp_path: Path, stopped: str) -> None:
    """It takes connections and says nothing: neither a request nor the end of the process waits for long."""
    writers: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    more = {"FLUSH_SECONDS": ""} | ({"EXIT_AT_ONCE": "true"} if stopped == "at once" else {})
    try:
        used = await use(environment(tmp_path, f"http://127.0.0.1:{port}/", **more))
    finally:
        for writer in writers:
            writer.close()
        server.close()
    left = time.time() - used["stopping_at"]
    assert writers, "something was sent"
    assert used["statuses"][:2] == [404, 201]
    assert "could not be sent within 5 s" in used["stderr"]
    assert left < 60


async def test_where_the_package_is_missing_the_app_works_and_stops(tmp_path: Path) -> None:
    ingestion = Ingestion()
    async with served(ingestion) as port:
        used = await use(environment(tmp_path, f"http://127.0.0.1:{port}/", WITHOUT="azure.monitor"))
    assert used["statuses"][:2] == [404, 201]
    assert "no telemetry is sent to Application Insights" in used["stderr"]
    assert ingestion.envelopes == []


async def test_where_the_worker_sends_telemetry_the_app_does_not(tmp_path: Path) -> None:
    ingestion = Ingestion()
    async with served(ingestion) as port:
        url = f"http://127.0.0.1:{port}/"
        used = await use(environment(tmp_path, url, PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY="true"))
    assert ingestion.envelopes == []
    assert "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY" in used["stderr"]


def _certificate(folder: Path) -> tuple[Path, Path]:
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private
