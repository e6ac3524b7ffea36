"""An agent of the OpenAI Agents SDK whose session is kept in a store: stop it, and go on in another process.

    python -m examples.openai_agents_session "Where is order 42?"
    python -m examples.openai_agents_session "And what was my first question?"

The store is that of the environment (docs/configuration.md): files in ./data, or Azure Storage. The model
is a script instead of a network, so that the example runs anywhere: put a model of yours in its place.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from integrations.openai_agents import StorageSession
from storage_lib import StorageManager

ORDERS = {"42": "on its way", "43": "delivered"}


@function_tool
def order_status(order: str) -> str:
    """Where an order is."""
    return ORDERS.get(order, "unknown")


class Script(Model):
    """Answers by rules: it looks up a number by the tool, and knows what it was asked before."""

    async def get_response(
        self, system_instructions: Any, input: Any, *rest: Any, **more: Any
    ) -> ModelResponse:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else input
        output = self._output(items)
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    def stream_response(self, *arguments: Any, **more: Any) -> AsyncIterator[Any]:
        raise NotImplementedError("this script does not stream")

    def _output(self, items: list[Any]) -> Any:
        last = items[-1]
        if last.get("type") == "function_call_output":
            return _message(f"It is {last['output']}.")
        questions = [item["content"] for item in items if item.get("role") == "user"]
        numbers = [word.strip("?.!") for word in questions[-1].split() if word.strip("?.!").isdigit()]
        if numbers:
            call = {"name": "order_status", "arguments": json.dumps({"order": numbers[0]})}
            return ResponseFunctionToolCall(
                id=f"fc_{uuid4()}", call_id=f"call_{uuid4()}", type="function_call", **call
            )
        return _message(f"Of your {len(questions)} questions the first was: {questions[0]}")


def _message(text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(text=text, type="output_text", annotations=[])
    return ResponseOutputMessage(
        id=f"msg_{uuid4()}", content=[content], role="assistant", status="completed", type="message"
    )


async def main(question: str) -> None:
    async with StorageManager() as storage:
        session = StorageSession("customer-1", storage)
        agent = Agent("Orders", instructions="Answer briefly.", model=Script(), tools=[order_status])
        # Traces would be sent to OpenAI.
        result = await Runner.run(
            agent, question, session=session, run_config=RunConfig(tracing_disabled=True)
        )
        print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "Where is order 42?"))
