"""The address of an app's HTTP API, and the key to it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from storage_lib.errors import ConfigurationError

_FORM = "http:// or https://, host, port and the API's path, as in https://NAME.azurewebsites.net/api"


def check_http_url(url: object) -> str:
    """Return the URL of an API, without a slash at its end.

    :raises ConfigurationError: it is none, or holds a secret.
    """
    try:
        split = urlsplit(url) if isinstance(url, str) and re.fullmatch(r"[!-~]+", url) else None
        port = split and split.port
    except ValueError:
        split = port = None
    if split is None or split.scheme not in ("http", "https") or not split.hostname or port == 0:
        raise ConfigurationError("http_url is not the URL of an API", field="http_url", limit=_FORM)
    if "@" in split.netloc or split.query or split.fragment:
        # Not repeated: it may be the key.
        raise ConfigurationError(
            "http_url says more than where the API is",
            field="http_url",
            limit=_FORM,
            remedy="leave out user, query and fragment; give a function key as http_key"
            " (AGENT_STORAGE_HTTP_KEY)",
        )
    return f"{split.scheme}://{split.netloc}{split.path.rstrip('/')}"


def check_http_key(key: object) -> str:
    """Return a function key.

    :raises ConfigurationError: it can be none.
    """
    if not isinstance(key, str) or not re.fullmatch(r"[!-~]{1,1024}", key):
        raise ConfigurationError(
            "http_key is not a function key", field="http_key", remedy="copy the whole key, in one line"
        )
    return key
