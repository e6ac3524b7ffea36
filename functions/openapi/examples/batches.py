"""Batches."""

from __future__ import annotations

from functions.openapi.examples import Example

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "run_batch": (
        Example(
            name="save two objects, and see whether a third is there",
            body={
                "operations": [
                    {"op": "save", "key": "batch/one", "value": {"n": 1}, "if_none_match": "*"},
                    {"op": "save", "key": "batch/two", "text": "hello", "ttl_seconds": 3600},
                    {"op": "exists", "key": "batch/three"},
                ]
            },
            answer={
                "results": [
                    {
                        "status": 201,
                        "key": "batch/one",
                        "etag": "4e1d7c2b1f0e9d8c7b6a4f3e8d0c4a5f",
                        "size": 7,
                        "location": "/api/objects/batch/one",
                    },
                    {
                        "status": 201,
                        "key": "batch/two",
                        "etag": "5d41402abc4b2a76b9719d911017c592~01796040000000",
                        "size": 5,
                        "location": "/api/objects/batch/two",
                    },
                    {
                        "status": 404,
                        "problem": {
                            "type": "urn:agent-storage:problem:key-not-found",
                            "title": "Not Found",
                            "status": 404,
                            "detail": "object 'batch/three' does not exist",
                            "field": "key",
                        },
                    },
                ]
            },
        ),
    ),
}
