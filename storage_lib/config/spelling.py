"""Misspelt settings, which would otherwise be ignored in silence."""

from __future__ import annotations

import logging
from collections.abc import Iterable

SETTINGS = frozenset(
    {
        "AGENT_ANALYSIS_DISK_MB",
        "AGENT_ANALYSIS_MEMORY_MB",
        "AGENT_ANALYSIS_OBJECT_MB",
        "AGENT_ANALYSIS_SECONDS",
        "AGENT_ANALYSIS_THREADS",
        "AGENT_MIGRATION_STORES",
        "AGENT_CONVERSATION_MESSAGES",
        "AGENT_STORAGE_ACCESS_AUDIENCE",
        "AGENT_STORAGE_ACCESS_ISSUER",
        "AGENT_STORAGE_ACCESS_POLICY",
        "AGENT_STORAGE_ALLOW_PICKLE",
        "AGENT_STORAGE_AUDIT",
        "AGENT_STORAGE_AUDIT_EXCLUDE",
        "AGENT_STORAGE_AUDIT_HEADS",
        "AGENT_STORAGE_AUDIT_KEY",
        "AGENT_STORAGE_AUDIT_ON_FAILURE",
        "AGENT_STORAGE_AUDIT_OPERATIONS",
        "AGENT_STORAGE_AUDIT_PATH",
        "AGENT_STORAGE_AUDIT_PREFIXES",
        "AGENT_STORAGE_AUDIT_ROTATE_BYTES",
        "AGENT_STORAGE_AUDIT_ROTATE_DAILY",
        "AGENT_STORAGE_AUDIT_SYNC_MS",
        "AGENT_STORAGE_AUDIT_TABLE",
        "AGENT_STORAGE_CACHING",
        "AGENT_STORAGE_CACHING_KEEP_WRITES",
        "AGENT_STORAGE_CACHING_MAX_BYTES",
        "AGENT_STORAGE_CACHING_MAX_OBJECT_BYTES",
        "AGENT_STORAGE_CACHING_NEGATIVE_TTL",
        "AGENT_STORAGE_CACHING_TTL",
        "AGENT_STORAGE_COMPRESSION",
        "AGENT_STORAGE_COMPRESSION_LEVEL",
        "AGENT_STORAGE_COMPRESSION_MAX_EXPANDED_BYTES",
        "AGENT_STORAGE_COMPRESSION_MIN_BYTES",
        "AGENT_STORAGE_CONCURRENT_REQUESTS",
        "AGENT_STORAGE_CONTAINER",
        "AGENT_STORAGE_ENCRYPTION",
        "AGENT_STORAGE_ENCRYPTION_ALLOW_PLAINTEXT_READS",
        "AGENT_STORAGE_ENCRYPTION_CONTEXT",
        "AGENT_STORAGE_ENCRYPTION_FERNET_KEYS",
        "AGENT_STORAGE_ENCRYPTION_KEYS",
        "AGENT_STORAGE_ENCRYPTION_KEYS_FILE",
        "AGENT_STORAGE_ENCRYPTION_KEY_VAULT_KEY",
        "AGENT_STORAGE_FALLBACK",
        "AGENT_STORAGE_FALLBACK_ACCOUNT_URL",
        "AGENT_STORAGE_FALLBACK_BLOB_ENDPOINT",
        "AGENT_STORAGE_FALLBACK_CHECK_SECONDS",
        "AGENT_STORAGE_FALLBACK_CLIENT_ID",
        "AGENT_STORAGE_FALLBACK_COMPLETE",
        "AGENT_STORAGE_FALLBACK_CONCURRENT_REQUESTS",
        "AGENT_STORAGE_FALLBACK_CONNECTION",
        "AGENT_STORAGE_FALLBACK_CONTAINER",
        "AGENT_STORAGE_FALLBACK_PATH",
        "AGENT_STORAGE_FALLBACK_QUEUE_ENDPOINT",
        "AGENT_STORAGE_FALLBACK_RETRY_ATTEMPTS",
        "AGENT_STORAGE_FALLBACK_S3_ACCESS_KEY_ID",
        "AGENT_STORAGE_FALLBACK_S3_BUCKET",
        "AGENT_STORAGE_FALLBACK_S3_ENDPOINT",
        "AGENT_STORAGE_FALLBACK_S3_REGION",
        "AGENT_STORAGE_FALLBACK_S3_SECRET_ACCESS_KEY",
        "AGENT_STORAGE_FALLBACK_SHARED_GROUP",
        "AGENT_STORAGE_FALLBACK_TABLE_ENDPOINT",
        "AGENT_STORAGE_FALLBACK_TYPE",
        "AGENT_STORAGE_FALLBACK_WRITES",
        "AGENT_STORAGE_HTTP_KEY",
        "AGENT_STORAGE_HTTP_URL",
        "AGENT_STORAGE_LINKS",
        "AGENT_STORAGE_LINK_MAX_BYTES",
        "AGENT_STORAGE_LINK_SECRETS",
        "AGENT_STORAGE_MAX_BODY_BYTES",
        "AGENT_STORAGE_MAX_JSON_BYTES",
        "AGENT_STORAGE_MCP_ORIGINS",
        "AGENT_STORAGE_MESSAGE_ENCODING",
        "AGENT_STORAGE_METRICS",
        "AGENT_STORAGE_METRICS_AZURE_MONITOR",
        "AGENT_STORAGE_METRICS_FAILURE_LOG_LEVEL",
        "AGENT_STORAGE_METRICS_LOG_LEVEL",
        "AGENT_STORAGE_METRICS_OPENTELEMETRY",
        "AGENT_STORAGE_METRICS_SIZES_HOURS",
        "AGENT_STORAGE_METRICS_TRACES",
        "AGENT_STORAGE_NAMESPACE",
        "AGENT_STORAGE_PATH",
        "AGENT_STORAGE_PROXIES",
        "AGENT_STORAGE_PUBLIC_URL",
        "AGENT_STORAGE_RATE_BURST",
        "AGENT_STORAGE_RATE_PER_SECOND",
        "AGENT_STORAGE_RETRY_ATTEMPTS",
        "AGENT_STORAGE_S3_BUCKET",
        "AGENT_STORAGE_S3_ENDPOINT",
        "AGENT_STORAGE_S3_REGION",
        "AGENT_STORAGE_SDK_LOG_LEVEL",
        "AGENT_STORAGE_SHARED_GROUP",
        "AGENT_STORAGE_SIGNING_KEY",
        "AGENT_STORAGE_TABLES_AND_QUEUES",
        "AGENT_STORAGE_TYPE",
        "AGENT_STORAGE_URL",
        "AGENT_STORAGE_VALIDATION",
        "AGENT_STORAGE_VALIDATION_MODULES",
        "AGENT_TASK_EVENTS",
        "AGENT_TASK_LEASE_SECONDS",
        "AGENT_TASK_MODULES",
        "AGENT_TASK_PAYLOADS",
        "AGENT_TASK_QUEUES",
        "AGENT_TASK_RETENTION_DAYS",
        "AGENT_TASK_WAITERS",
        "AgentStorage",
        "AgentStorage__accountName",
        "AgentStorage__blobServiceUri",
        "AgentStorage__clientId",
        "AgentStorage__queueServiceUri",
        "AgentStorage__tableServiceUri",
    }
)
OF_OTHERS = frozenset(
    {
        # Settings of the platform's bindings for the same connection.
        "AgentStorage__clientSecret",
        "AgentStorage__credential",
        "AgentStorage__managedIdentityResourceId",
        "AgentStorage__tenantId",
        # Variables of the deployment (infra/main.parameters.json), which may be in the same shell.
        "AGENT_KEY_VAULT_KEY_URI",
        "AGENT_STORAGE_ACCOUNT",
        "AGENT_STORAGE_ALERT_EMAIL",
        "AGENT_STORAGE_APP_PRIVATE_ENDPOINT",
        "AGENT_STORAGE_APP_PUBLIC_ACCESS",
        "AGENT_STORAGE_AUTH_CLIENT_ID",
        "AGENT_STORAGE_AVAILABILITY_TEST",
        "AGENT_STORAGE_BUDGET",
        "AGENT_STORAGE_BUDGET_START",
        "AGENT_STORAGE_CREATE_GROUP",
        "AGENT_STORAGE_DATA_ACCOUNT",
        "AGENT_STORAGE_DATA_GROUP",
        "AGENT_STORAGE_INSTANCE_MB",
        "AGENT_STORAGE_KEY_URI",
        "AGENT_STORAGE_KEY_VAULT",
        "AGENT_STORAGE_LOCK",
        "AGENT_STORAGE_LOG_ACCESS",
        "AGENT_STORAGE_MAX_INSTANCES",
        "AGENT_STORAGE_NETWORK_ISOLATION",
        "AGENT_STORAGE_OPEN_TELEMETRY",
        "AGENT_STORAGE_RESOURCE_GROUP",
        "AGENT_STORAGE_SEPARATE_HOST",
        "AGENT_STORAGE_SKU",
    }
)
_OURS = ("AGENT_STORAGE", "AGENT_TASK", "AGENTSTORAGE")
_MARKS = ("AGENT", "STORAGE_", "TASK_")
_SECOND = "AGENT_STORAGE_FALLBACK_"
_CLOSE = 0.85

_log = logging.getLogger("AOS.Settings")
_told: set[str] = set()


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """Those of ``names`` that begin like a setting or are close to one, each with the nearest setting."""
    found: dict[str, str] = {}
    for name in names:
        upper = name.upper()
        if name in SETTINGS or name in OF_OTHERS or not any(mark in upper for mark in _MARKS):
            continue
        import difflib  # Only if there is something to compare.

        # The settings of the second store repeat the names of the first one's.
        second = upper.startswith(_SECOND[:-5])
        ours = {setting.upper(): setting for setting in SETTINGS if second or not setting.startswith(_SECOND)}
        close = 0.0 if upper.startswith(_OURS) else _CLOSE
        if nearest := difflib.get_close_matches(upper, sorted(ours), n=1, cutoff=close):
            found[name] = ours[nearest[0]]
    return found


def warn_of_misspelt(names: Iterable[str]) -> None:
    """Log each misspelt name, once per process."""
    for name, nearest in misspelt(names).items():
        if name not in _told:
            _told.add(name)
            _log.warning("%s is not a setting and does nothing; did you mean %s?", name, nearest)
