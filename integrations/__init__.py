"""Adapters by which agent frameworks keep their state in a `StorageManager`: one module for each framework,
with an extra of its own (``pip install "agent-storage[langgraph]"``). Each is imported by its user alone."""
