"""A LangGraph agent whose state, files, tasks and memory are in one storage: stop it at any moment, start it
again anywhere, and it goes on where it was.

    .venv/bin/python examples/langgraph_agent.py my-thread

`AGENT_STORAGE_…` says where the storage is; without it, it is the folder `data`. A script stands for the
model, so that it needs no network: put a chat model with `bind_tools(tools)` in its place.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from integrations.langgraph import AgentStorageSaver, AgentStorageStore
from storage_lib import KeyNotFoundError, StorageManager
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE
from storage_lib.tasks.registry import Registry

SALES = "region,amount\nnorth,120\nsouth,80\neast,95\n"


def tools_of(storage: StorageManager, engine: TaskEngine, memory: AgentStorageStore) -> list[BaseTool]:
    """What the agent can do. Each may run again after the process died, and does the same then."""

    @tool
    async def save_file(path: str, text: str) -> str:
        """Save a text file."""
        await storage.save(path, text)
        return f"saved {path}"

    @tool
    async def start_analysis(path: str, call: Annotated[str, InjectedToolCallId]) -> str:
        """Start the analysis of a report in the background; returns the task's id."""
        payload = {"report": path, "output": f"{path}.json", "overwrite": True}
        record = await engine.submit("analyze_report", "analyst", payload, idempotency_key=call)
        return record.task_id

    @tool
    async def wait_for_analysis(task_id: str) -> str:
        """Wait for the end of an analysis; returns how many rows the report has."""
        await work_off(storage, engine)
        record = await engine.wait_for(task_id, 60)
        return f"{record.status}: {record.result['rows']} rows" if record.result else record.status

    @tool
    async def remember(fact: str) -> str:
        """Remember a fact for all later conversations."""
        await memory.aput(("facts", "sales"), fact[:40], {"text": fact})
        return "remembered"

    return [save_file, start_analysis, wait_for_analysis, remember]


async def work_off(storage: StorageManager, engine: TaskEngine) -> None:
    """Run the tasks that are waiting. Where the app runs on the same storage, it does that."""
    try:
        while messages := await storage.backend.queues.receive(TASK_QUEUE, visibility_timeout=300):
            for message in messages:
                await engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
                await storage.backend.queues.delete(TASK_QUEUE, message)
    except KeyNotFoundError:
        return  # The app has the queue, or had the message.


def model(messages: Sequence[AnyMessage]) -> AIMessage:
    """The script: what a model would say after what has been said."""
    said = sum(isinstance(message, AIMessage) for message in messages)
    results = [str(message.content) for message in messages if isinstance(message, ToolMessage)]

    def call(name: str, **arguments: Any) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{said}"}])

    match said:
        case 0:
            return call("save_file", path="reports/sales.csv", text=SALES)
        case 1:
            return call("start_analysis", path="reports/sales.csv")
        case 2:
            return call("wait_for_analysis", task_id=results[-1])
        case 3:
            return call("remember", fact=f"The sales report: {results[-1]}")
        case _:
            return AIMessage(f"The analysis has {results[-2]}.")


def agent(storage: StorageManager) -> Any:
    """The graph: the model, its tools, and the model again until it calls none."""
    engine, memory = TaskEngine(storage, Registry(["actions"])), AgentStorageStore(storage)

    async def think(state: MessagesState) -> dict[str, list[AnyMessage]]:
        return {"messages": [model(state["messages"])]}

    built = StateGraph(MessagesState)
    built.add_node("model", think)
    built.add_node("tools", ToolNode(tools_of(storage, engine, memory)))
    built.add_edge(START, "model")
    built.add_conditional_edges("model", tools_condition)
    built.add_edge("tools", "model")
    return built.compile(checkpointer=AgentStorageSaver(storage), store=memory)


async def main(thread: str) -> None:
    async with StorageManager() as storage:
        graph, config = agent(storage), {"configurable": {"thread_id": thread}}
        begun = await graph.aget_state(config)
        question = {"messages": [("user", "How many rows has the sales report?")]}
        # None goes on with what was begun. "sync": a step is stored before the next one begins.
        run = graph.astream(
            None if begun.next else question, config, stream_mode="updates", durability="sync"
        )
        async for update in run:
            for node, change in update.items():
                for message in change["messages"]:
                    called = ", ".join(each["name"] for each in getattr(message, "tool_calls", ()))
                    print(f"{node}: {called or message.content}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sales"))
