"""Runs ``function_app.py`` on this machine, without Azure Functions Core Tools. Never deployed.

Microsoft's own worker runtime indexes the app and runs every invocation (runtime.py); everything else
here is the host's side of it: HTTP routes and keys, the queue listener, timers, output bindings.
"""
