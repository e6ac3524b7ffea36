"""Tasks for agents: a record in a table, a message in a queue, an action that runs. No trigger code."""
