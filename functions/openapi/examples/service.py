"""Health, metrics, and the document itself."""

from __future__ import annotations

from functions.openapi.examples import Example

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "health_live": (Example(name="the process", answer={"status": "live"}),),
    "head_health_live": (Example(name="the process"),),
    "health_ready": (Example(name="the storage", answer={"status": "ready", "storage": "file"}),),
    "head_health_ready": (Example(name="the storage"),),
    "metrics": (Example(name="metrics that are off", status=501),),
    "head_metrics": (Example(name="metrics that are off", status=501),),
    "list_sizes": (
        Example(name="before the first measurement", answer={"hours": None, "growth": {}, "samples": []}),
    ),
    "head_list_sizes": (Example(name="whether they can be read"),),
    "openapi_document": (
        Example(name="the document"),
        Example(
            name="the document, if it is another one",
            headers={"If-None-Match": "*"},
            status=304,
        ),
    ),
    "head_openapi_document": (Example(name="the document"),),
    "show_caller": (
        Example(name="without a policy", answer={"principal": None, "rights": None, "signed_in": False}),
    ),
    "head_show_caller": (Example(name="without a policy"),),
    "console_page": (Example(name="the page"),),
    "head_console_page": (Example(name="the page"),),
    "console_asset": (Example(name="its script", path={"asset": "console.js"}),),
    "head_console_asset": (Example(name="its script", path={"asset": "console.js"}),),
    "docs_page": (Example(name="the page"),),
    "head_docs_page": (Example(name="the page"),),
}
