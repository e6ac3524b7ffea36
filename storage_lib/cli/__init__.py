"""The command line, `agent-storage`. `storage_lib.cli.__main__` starts it.

A command is a coroutine function in ``commands/``, registered by `storage_lib.cli.command.command`. What it
finds goes to stdout, everything else to stderr. Nothing of the library is imported before a command needs it:
``--help`` is as fast as Python and typer are.
"""
