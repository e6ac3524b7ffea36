"""The tools. Each is a route of the app, or an operation of its batches, under a name that models understand:
what it takes, gives and allows is what that says of itself."""

from __future__ import annotations

from msgspec import Struct


class Tool(Struct, frozen=True, kw_only=True):
    """
    :param name: as models know it.
    :param route: the function that does it; empty for an operation.
    :param operation: the operation of a batch that does it.
    :param body: the schema of the route's body; its members are arguments, unless ``whole`` takes all of it.
    :param whole: the argument that is the whole body.
    :param without: parameters of the route that are not arguments.
    :param action: the action whose payload is the arguments, of a tool that runs one as a task.
    :param runs: whether it waits for the end of the task that it submits.
    :param gives: the schema of its result, where the route's first answer is not it.
    :param reads: it changes nothing. :param destroys: it may replace or remove something.
    :param repeats: doing it twice is like doing it once, as with all that changes nothing.
    """

    name: str
    title: str
    route: str = ""
    operation: str = ""
    body: str = ""
    whole: str = ""
    without: tuple[str, ...] = ()
    action: str = ""
    runs: bool = False
    gives: str = ""
    reads: bool = False
    destroys: bool = False
    repeats: bool = False
    describes: str = ""
    """What it does, where the route or operation says something else."""


CONDITION = "if_match"
"""The argument that stands for the header ``If-Match`` of a route."""
WAIT = "wait_seconds"
"""How long a tool that runs a task waits for its end."""

TOOLS: tuple[Tool, ...] = (
    Tool(
        name="save_object",
        title="Save an object",
        operation="save",
        gives="BatchResult",
        destroys=True,
        repeats=True,
        describes="Save an object under a key, in place of one that is there. Exactly one of `value` (JSON),"
        " `text` and `base64` is saved. With `if_none_match` `*` nothing is replaced; with `if_match` only"
        " the version with this ETag. Several MB are saved by `make_link` with `method` `PUT`.",
    ),
    Tool(
        name="load_object",
        title="Load an object",
        operation="load",
        gives="LoadedObject",
        reads=True,
        describes="Load an object: `value` if it is JSON, `text` if it is text, else its bytes as an embedded"
        " resource. Of an object above 1 MiB there is a `link` instead, a URL that needs no key.",
    ),
    Tool(
        name="list_objects",
        title="List objects",
        route="list_objects",
        without=("key", CONDITION),
        reads=True,
    ),
    Tool(
        name="patch_object",
        title="Change a JSON object",
        route="by_query_touch_object",
        body="MergePatch",
        whole="patch",
        destroys=True,
        describes="Change the JSON value of an object in one step, whoever else writes at the same time, by a"
        " merge patch (RFC 7396): members of `patch` are set, null removes one, the others stay.",
    ),
    Tool(
        name="copy_object",
        title="Copy an object",
        operation="copy",
        gives="BatchResult",
        destroys=True,
        repeats=True,
        describes="Copy an object to another key, in place of what is there unless `if_none_match` is `*`.",
    ),
    Tool(
        name="move_object",
        title="Move an object",
        operation="move",
        gives="BatchResult",
        destroys=True,
        describes="Move an object to another key, in place of what is there unless `if_none_match` is `*`.",
    ),
    Tool(
        name="delete_object",
        title="Delete an object",
        operation="delete",
        gives="BatchResult",
        destroys=True,
        describes="Delete an object; with `if_match` only the version with this ETag.",
    ),
    Tool(name="make_link", title="Make a link to an object", route="by_query_make_link", body="LinkRequest"),
    Tool(
        name="append_messages",
        title="Append to a conversation",
        route="by_query_extend_conversation",
        body="NewMessages",
        describes="Append messages, JSON objects, to the conversation `key`, all or none; it is created if"
        " there is none. One with an `id` is appended once. With `if_match`, a position or an ETag, only if"
        " no other message has come since.",
    ),
    Tool(
        name="read_conversation",
        title="Read a conversation",
        route="read_conversation",
        without=(CONDITION,),
        reads=True,
    ),
    Tool(
        name="list_conversations",
        title="List conversations",
        route="list_conversations",
        without=("key", "last", "after", "before", CONDITION),
        reads=True,
        describes="A page of conversations, the one that was created last first; only those of a"
        " `participant`, with a `topic`, or whose ids begin with `prefix`.",
    ),
    Tool(
        name="query_objects",
        title="Query objects by SQL",
        action="query",
        runs=True,
        gives="Task",
        # With `output` it writes an object.
        destroys=True,
    ),
    Tool(name="list_actions", title="List actions", route="list_actions", reads=True),
    Tool(
        name="submit_task",
        title="Submit a task",
        route="submit_task",
        body="TaskSubmission",
        destroys=True,
        describes="Submit a task and return at once; `get_task` has its state and, in the end, its result."
        " `list_actions` says what tasks can do. The same submission with the same `idempotency_key` is one"
        " task.",
    ),
    Tool(
        name="run_task",
        title="Run a task",
        route="submit_task",
        body="TaskSubmission",
        runs=True,
        destroys=True,
        describes="Submit a task and wait for its end, at most `wait_seconds`; if it is still under way then,"
        " `get_task` tells how it goes on. `list_actions` says what tasks can do.",
    ),
    Tool(name="get_task", title="Read a task", route="get_task", reads=True),
    Tool(name="list_tasks", title="List tasks", route="list_tasks", reads=True),
    Tool(name="cancel_task", title="Cancel a task", route="cancel_task", destroys=True, repeats=True),
)
