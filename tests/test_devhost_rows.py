"""What the platform's own host was measured to do, fact by fact, and the test that the local host does it.

A new fact is a row. What is different is a row too, with words that docs/local.md has for it.
"""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.conftest import PROJECT

IMITATED = """
# Paths and queries
An escaped slash stays as it is, in the URL and in the parameter
    devhost_platform paths
A slash that was escaped twice cannot be told from one that was escaped once
    devhost_platform paths
The URL is made anew of the decoded path, and may name another key
    devhost_platform paths
What needs no escape loses it, what needs one gets it
    devhost_platform paths
Escapes that are not UTF-8 stay escaped in a path
    devhost_platform paths
And in a query
    devhost_platform queries
Dot segments are resolved before routing
    devhost_platform paths
Those beside an escaped slash are not
    devhost_platform paths
NUL, raw characters beyond ASCII, # and blanks are 400
    devhost_platform targets
A catch-all takes no empty first segment, but later ones
    devhost_platform targets
The case of literals is ignored, and a slash at the end
    devhost_platform targets
A request line over 8 KiB is 414
    devhost_platform targets
Headers over 32 KiB, or more than 100, are 431
    devhost_platform header_limits
Values of a repeated parameter are joined, empty ones are dropped
    devhost_platform queries

# Methods
HEAD is a method of its own
    devhost_platform methods
A wrong or unknown method is 404 without Allow
    devhost_platform methods
Before keys are looked at
    devhost_platform keys

# Bodies
Bytes are exact, whatever they are and claim to be
    devhost bodies_arrive_to_the_byte
And are not decompressed
    devhost compressed_body_is_left_as_it_is
Chunks do not reach the function, but transfer-encoding does
    devhost_platform chunked_body_does_not_reach_the_function
100 MiB are taken, one byte more is 500 and closed
    devhost_platform too_large_a_body_is_500_without_a_body
401 and 404 come before a body is read
    devhost_platform keys
A body that is slower than 240 bytes a second is 500 after 6 s
    devhost_platform slow_clients
Half a head is 408 after 31 s
    devhost_platform slow_clients
An idle connection is closed after 131 s
    devhost_platform an_idle_connection_is_closed
So many seconds
    devhost_platform times
A body that is cut off is not invoked
    devhost half_a_body_is_never_invoked

# Headers and answers
Names are lower case, repeated headers joined by a comma
    devhost_platform headers_arrive_lower_case_and_joined
X-MS-CLIENT-PRINCIPAL of a client passes
    devhost_platform headers_arrive_lower_case_and_joined
An answer without a length is chunked, a right one is kept
    devhost_platform answers
A length that is too long cuts the answer
    devhost_platform an_answer_that_claims_to_be_longer_is_cut
One that is too short, or none, is 500
    devhost_platform answers
A header value that is not printable ASCII is 500
    devhost_platform answers
Of two names that differ in case the first is sent
    devhost_platform answers
Transfer-Encoding of the function breaks the answer
    devhost_platform an_answer_with_a_transfer_encoding_of_its_own_is_broken
HEAD keeps a length without a body; no value is 204
    devhost_platform head_and_empty_answers
204, 206 and 304 are as given
    devhost_platform answers_without_a_whole_body_are_as_given
Text is 200 text/plain; charset=utf-8
    devhost_platform a_string_is_plain_text
An exception is an empty 500
    devhost failure_is_an_empty_500_and_the_log_says_why
Nothing is added
    devhost answer_has_nothing_added
401 has neither body nor WWW-Authenticate
    devhost_platform keys
A key in a header wins, even an empty one; the first of two; without case
    devhost_platform keys
CORS is the platform's
    devhost_platform cors_of_local_settings
/ is the host's own page
    devhost_platform targets

# Time, failure, stop
FunctionTimeout ends the worker and all that runs there
    devhost_worker function_timeout_ends_the_worker_and_not_the_host
Some 12 s later
    devhost_worker times
A client that leaves stops nothing
    devhost disconnect_does_not_stop_an_invocation
Requests of a worker that dies are 500, new ones are held
    devhost_worker a_worker_that_dies_fails_what_it_does_and_is_replaced
The third death ends the host, which is started again
    devhost_worker the_third_death_ends_the_host
200 requests reach the app at once
    devhost_platform 200_requests_reach_the_app_at_once
A stop awaits queue functions without limit
    devhost stop_waits_for_what_runs
Messages that arrive during a stop stay hidden
    devhost a_batch_under_way_at_a_stop_stays_hidden
A stop cuts timers off
    devhost_platform a_stop_cuts_timers_off

# Queues
16 at once, the next at 8, at most 24
    devhost batches_and_the_limit_of_concurrency
Hidden for 600 s, renewed at half of it without end
    devhost lease_is_renewed_and_the_new_receipt_deletes
These are the defaults
    devhost defaults_are_the_platforms
VisibilityTimeout is for the release after a failure
    devhost failure_hides_for_the_visibility_timeout_then_retries
After five failures it is copied to the poison queue, then deleted
    devhost poison_after_the_last_attempt_keeps_the_raw_text
The message of a host that is killed comes back when it is visible
    devhost killed_host_loses_no_message
One that was received too often is poisoned without a run
    devhost received_too_often_goes_to_poison_without_a_run
Poison messages live seven days
    devhost poison_after_the_last_attempt_keeps_the_raw_text
And those of output bindings
    devhost output_values
A poison function that fails leaves its message hidden
    devhost poison_queue_has_no_poison_queue
A queue that is away for long, or refuses, stops the host
    devhost the_platform_stops_the_host
Which the platform starts again
    devhost_platform a_refused_queue_request_stops_the_host_which_starts_again
Six tries in 22 s
    devhost a_request_that_fails_for_the_moment_is_made_again
A poison copy may be there twice
    devhost a_poison_copy_whose_answer_was_lost_is_there_twice
An idle queue is asked after 0.1 s and ever more rarely
    devhost backoff_grows_to_its_limit
Two queues and two hosts share, and run no message twice
    devhost hosts_share_two_queues_and_run_no_message_twice
An output binding wakes no trigger
    devhost an_output_wakes_no_trigger
Properties of a JSON message replace its metadata
    devhost a_json_message_replaces_its_own_metadata
One that cannot be parsed never comes to the function
    task_foreign a_message_that_the_worker_cannot_read_does_not_come_back_for_ever
A text in base64 is not looked into
    devhost a_text_in_base64_keeps_its_metadata
Metadata is text, and whole seconds as JSON
    devhost success_deletes_and_metadata_reaches_the_function
What a function that fails puts out is not sent
    devhost outputs_are_sent_after_success_only

# Timers
One instance runs them, until its lease ends
    devhost_timers of_several_hosts_one_runs_the_timers
A lease of 60 s, which nobody gives back
    devhost_timers one_host_has_the_lease_until_it_ends
What was due while no host was there is one run, past due
    devhost_timers what_was_due_while_no_host_was_there_is_made_up_once
What was due during a run is one run at once, never two
    devhost_timers timer_runs_when_due_and_one_at_a_time
Hh:mm:ss is a pause
    devhost_timers a_pause_begins_when_a_run_has_ended
Six fields, names in three letters or whole
    devhost_timers schedule
7, ?, L, # and @daily are refused
    devhost_timers bad_schedule_is_refused
The zone is the process's
    devhost_timers a_schedule_is_in_the_zone_of_the_process
"""

DIFFERENT = """
A body that begins with { costs 30 times its size in memory
    **JSON**
The next worker is up after 6 s
    **One worker**
A host that stops goes on answering
    **Stop**
On Flex, httpConcurrency bounds the requests
    `httpConcurrency`
An idle queue is asked every maxPollingInterval in the end
    **Idle queues**
Timers keep status and lease in blobs
    **Timers**
A timer's lease has to be found free, up to 87 s after a kill
    87 s
"""


def rows(table: str) -> list[tuple[str, str]]:
    """Each fact, and what stands indented below it, or nothing."""
    found: list[tuple[str, str]] = []
    for line in filter(None, table.splitlines()):
        if line.startswith("    "):
            found[-1] = (found[-1][0], line.strip())
        elif not line.startswith("#"):
            found.append((line, ""))
    return found


@cache
def functions_of(module: str) -> dict[str, ast.AST]:
    tree = ast.parse((PROJECT / "tests" / f"test_{module}.py").read_text())
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("fact", "where"), rows(IMITATED))
def test_each_fact_has_a_test(fact: str, where: str) -> None:
    module, _, name = where.partition(" ")
    assert name, f"{fact}: no test"
    text = ast.unparse(functions_of(module)[f"test_{name}"])
    assert any(word in text for word in ("assert ", "until(", "wait_for(", "pytest.raises("))
    assert "skip" not in text


@pytest.mark.parametrize(("fact", "words"), rows(DIFFERENT))
def test_what_is_different_is_told(fact: str, words: str) -> None:
    text = " ".join((PROJECT / "docs" / "local.md").read_text().split())
    assert words, f"{fact}: not told"
    assert words in text.partition("## Different from the platform")[2]
