"""Links, and uploads in parts."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from functions.openapi.examples import Example

_KEY = "models/large.bin"
_ID = "0f5d1f4bd6de5a1bb7c5ae0c6b9c7f10"
_TIMES = {"created_at": "2026-11-30T08:00:00.000000Z", "expires_at": "2026-12-01T08:00:00Z"}
_UPLOAD: dict[str, Any] = {
    "upload_id": _ID,
    "key": _KEY,
    **_TIMES,
    "content_type": "application/x-model",
}
_PART = {
    "part": 1,
    "size": 5,
    "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
}

_SIGNED = {
    "expires": "1796040300",
    "kid": "d399dd62",
    "sig": "yPmQ_yeL_DNaAOvhYUspo1iK9zVFC5e3B1v6fupK-1Q",
}
_REPORT = "reports/q1.txt"
_ENDED = "a link that has ended, or was changed"


def _of_key(example: Example) -> Example:
    """The same with the key in the query."""
    return structs.replace(example, path={}, query={**example.path, **example.query})


_LINK = Example(
    name="to save by, for five minutes",
    path={"key": _REPORT},
    body={"method": "PUT", "content_type": "text/plain", "expires_in": 300},
    status=201,
    answer={
        "url": f"http://127.0.0.1:7071/api/signed/{_REPORT}?expires=1796040300&type=text/plain&max=67108864"
        f"&kid=d399dd62&sig={_SIGNED['sig']}",
        "method": "PUT",
        "headers": {"Content-Type": "text/plain"},
        "expires_at": "2026-11-30T08:05:00Z",
        "through": "app",
        "max_bytes": 67108864,
    },
)
_LOADED = Example(name=_ENDED, path={"key": _REPORT}, query=_SIGNED, status=403)
_SAVED = structs.replace(_LOADED, body="good", media_type="text/plain")
_BEGUN = Example(
    name="begin",
    path={"key": _KEY},
    body={"content_type": "application/x-model"},
    status=201,
    answer={**_UPLOAD, "part_bytes": 4194304, "max_part_bytes": 67108864, "max_parts": 10000},
)
_SENT = Example(
    name="the first part",
    path={"key": _KEY},
    query={"upload_id": _ID, "part": "1"},
    body="hello",
    media_type="application/octet-stream",
    answer=_PART,
    after=("create_or_complete_upload",),
)
_LISTED = Example(
    name="what is there",
    path={"key": _KEY},
    query={"upload_id": _ID},
    answer={**_UPLOAD, "parts": [_PART]},
    after=("save_upload_part",),
)
_GIVEN_UP = Example(
    name="give up",
    path={"key": _KEY},
    query={"upload_id": _ID},
    status=204,
    after=("create_or_complete_upload",),
)
_PAGE = Example(
    name="those below a prefix",
    query={"prefix": "models/"},
    answer={"uploads": [_UPLOAD], "cursor": None},
    after=("create_or_complete_upload",),
)

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "make_link": (
        _LINK,
        Example(name="to load by what there is not", path={"key": _REPORT}, body={}, status=404),
    ),
    "by_query_make_link": (_of_key(_LINK),),
    "load_by_link": (_LOADED,),
    "head_by_link": (_LOADED,),
    "save_by_link": (_SAVED,),
    "by_query_load_by_link": (_of_key(_LOADED),),
    "head_by_query_load_by_link": (_of_key(_LOADED),),
    "by_query_save_by_link": (_of_key(_SAVED),),
    "create_or_complete_upload": (
        _BEGUN,
        Example(
            name="complete",
            path={"key": _KEY},
            query={"upload_id": _ID},
            headers={"If-None-Match": "*"},
            body={"parts": [1]},
            status=201,
            answer={"key": _KEY, "etag": "5d41402abc4b2a76b9719d911017c592", "size": 5},
            after=("create_or_complete_upload", "save_upload_part"),
        ),
        Example(
            name="complete what lacks its parts",
            path={"key": _KEY},
            query={"upload_id": _ID},
            body={},
            status=409,
            after=("create_or_complete_upload",),
        ),
    ),
    "by_query_create_or_complete_upload": (_of_key(_BEGUN),),
    "save_upload_part": (_SENT,),
    "by_query_save_upload_part": (_of_key(_SENT),),
    "show_upload": (_LISTED,),
    "head_show_upload": (structs.replace(_LISTED, answer=None),),
    "discard_upload": (_GIVEN_UP,),
    "by_query_discard_upload": (_of_key(_GIVEN_UP),),
    "list_uploads": (_PAGE,),
    "head_list_uploads": (structs.replace(_PAGE, answer=None),),
}
