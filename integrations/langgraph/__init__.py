"""LangGraph on a `StorageManager`: `AgentStorageSaver` keeps the checkpoints of graphs, `AgentStorageStore`
is their long-term memory."""

from integrations.langgraph.saver import AgentStorageSaver, ThreadConflictError
from integrations.langgraph.serializer import StrictSerializer
from integrations.langgraph.store import AgentStorageStore

__all__ = ["AgentStorageSaver", "AgentStorageStore", "StrictSerializer", "ThreadConflictError"]
