"""What devhost refuses to work with, in words for whoever started it."""


class DevhostError(Exception):
    """The app, a setting, a port or a folder cannot be used; the text says which and what to do."""


class HostStoppedError(Exception):
    """The platform would stop the whole host here, and start it again; the text says why."""


MEMORY_REFUSED = (
    "AGENT_STORAGE_TYPE=memory: the app's queues cannot be seen from outside of it; use file, which needs"
    " nothing either"
)
