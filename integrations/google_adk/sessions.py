"""Sessions of Google ADK."""

# It conflicts with other frameworks, so the type checker does not see it.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.sessions import BaseSessionService, Session, State
from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse

from storage_lib import KeyNotFoundError, PreconditionFailedError, StorageManager, to_segment
from storage_lib.conversations import Conversations, Entry
from storage_lib.conversations.batches import batch_ids


class StorageSessionService(BaseSessionService):
    """Sessions that any number of processes use at once: events as conversations, states as objects.

        runner = Runner(agent=agent, app_name="shop", session_service=StorageSessionService(storage))

    An event that is appended again is there once, and what two processes append or change in a state at the
    same time is all kept. An event is stored before its changes of states. If its process ends in between,
    `get_session` shows them nevertheless, and whoever appends next makes them, in the order of the events.
    The storage stays open; who made it closes it.

    :param storage: of memory, files or Azure.
    :param prefix: of the conversations and objects.
    """

    def __init__(self, storage: StorageManager, *, prefix: str = "google-adk") -> None:
        self._storage = storage
        self._log = Conversations(storage)
        self._prefix = "".join(f"{each}/" for each in prefix.split("/") if each)

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session.

        :raises AlreadyExistsError: there is one with this id.
        """
        session_id = (session_id or "").strip() or str(uuid.uuid4())
        deltas, now = _by_scope(state or {}), time.time()
        key = self._key("sessions", app_name, user_id, session_id)
        # An event may have come while an earlier session of this id was deleted. It cannot be deleted here:
        # by then others may have appended to this session.
        begin = await self._position(key)
        found = {
            "app": app_name,
            "user": user_id,
            "id": session_id,
            "state": deltas["session"],
            "updated": now,
            "begin": begin,
            "position": begin,  # Of the last event whose changes are in the states.
        }
        try:
            await self._storage.save(key, found, if_absent=True)
        except PreconditionFailedError as error:
            raise AlreadyExistsError(f"Session with id {session_id} already exists.") from error
        await self._change_shared(app_name, user_id, deltas)
        return self._session(found, await self._shared(app_name, user_id))

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """A session with its events, or as many as ``config`` says; None if there is none."""
        session_id = session_id.strip()
        key = self._key("sessions", app_name, user_id, session_id)
        found, shared = await asyncio.gather(
            self._storage.load(key, default=None, fresh=True), self._shared(app_name, user_id)
        )
        if found is None:
            return None
        last = None if config is None else config.num_recent_events
        begin, position = found["begin"], found["position"]
        entries = pending = await self._entries(key, position if last is not None else begin)
        if last is not None:
            entries = await self._entries(key, begin, last)
        session = self._session(found, shared)
        for entry in pending:
            if entry.position > position:
                event = Event.model_validate(entry.message)
                session.state.update(event.actions.state_delta)
                session.last_update_time = event.timestamp
        for entry in reversed(entries):
            event = Event.model_validate(entry.message)
            if config is not None and event.timestamp < (config.after_timestamp or 0):
                break
            session.events.insert(0, event)
        return session

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """The sessions of a user, or of all, without events; the last one that changed is the last."""
        users = () if user_id is None else (user_id,)
        keys = await self._storage.list_keys(self._key("sessions", app_name, *users) + "/")
        found = await self._storage.load_many(keys, default=None, raise_errors=True, fresh=True)
        there = [each for each in found.values() if each is not None]
        shared = {each["user"]: await self._shared(app_name, each["user"]) for each in there}
        sessions = [self._session(each, shared[each["user"]]) for each in there]
        sessions.sort(key=lambda each: (each.last_update_time, each.user_id, each.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session and its events, if there is one."""
        key = self._key("sessions", app_name, user_id, session_id.strip())
        await self._log.delete(key, missing_ok=True)
        await self._storage.delete(key, missing_ok=True)

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """The state of a user in all sessions."""
        return await self._storage.load(self._key("users", app_name, user_id), default={}, fresh=True)

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event, and make its changes of states.

        :raises SessionNotFoundError: there is no such session.
        """
        if event.partial:
            return event
        key = self._key("sessions", session.app_name, session.user_id, session.id)
        found = await self._storage.load(key, default=None, fresh=True)
        if found is None:
            raise SessionNotFoundError(f"Session {session.id} not found.")
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        message = event.model_dump(mode="json", by_alias=True, exclude_none=True)
        appended = await self._log.append(key, [message], ids=batch_ids([message]))
        if appended.positions[0] == appended.position == found["position"] + 1:
            pending = [(appended.position, event)]
        else:  # Others have appended too, or have ended before they had changed the states.
            entries = await self._entries(key, found["position"])
            pending = [(entry.position, Event.model_validate(entry.message)) for entry in entries]
        if pending:
            await self._change_states(session, key, pending)
        if appended.added or all(each.id != event.id for each in session.events):
            self._commit_event_to_session(session, event)
            session.last_update_time = event.timestamp
        return event

    async def _change_states(self, session: Session, key: str, events: Sequence[tuple[int, Event]]) -> None:
        """Make the changes of events, which are all behind the position that the session had."""
        total: dict[str, Any] = {}
        for _, event in events:
            total |= event.actions.state_delta
        # These first: what is made twice does less harm than what is not made.
        await self._change_shared(session.app_name, session.user_id, _by_scope(total))

        def changed(found: dict[str, Any]) -> dict[str, Any]:
            for position, event in events:
                if position > found["position"]:
                    state = found["state"] | _by_scope(event.actions.state_delta)["session"]
                    found = found | {"state": state, "updated": event.timestamp, "position": position}
            return found

        try:
            await self._storage.update(key, changed)
        except KeyNotFoundError as error:
            raise SessionNotFoundError(f"Session {session.id} was deleted meanwhile.") from error

    async def _entries(self, key: str, after: int, last: int | None = None) -> list[Entry]:
        """The events behind a position, or the last ones of them."""
        try:
            if last is None:
                return await self._log.read(key, after=after)
            # With nothing else it is one request.
            entries = await self._log.read(key, last=last)
        except KeyNotFoundError:
            return []
        return [entry for entry in entries if entry.position > after]

    async def _position(self, key: str) -> int:
        try:
            return (await self._log.describe(key)).position
        except KeyNotFoundError:
            return 0

    async def _change_shared(self, app_name: str, user_id: str, deltas: dict[str, dict[str, Any]]) -> None:
        for key, delta in (
            (self._key("apps", app_name), deltas["app"]),
            (self._key("users", app_name, user_id), deltas["user"]),
        ):
            if delta:
                await self._storage.update(key, lambda found, delta=delta: found | delta, initial={})

    async def _shared(self, app_name: str, user_id: str) -> dict[str, Any]:
        keys = self._key("apps", app_name), self._key("users", app_name, user_id)
        found = await self._storage.load_many(keys, default={}, raise_errors=True, fresh=True)
        return {
            f"{prefix}{name}": value
            for prefix, key in zip((State.APP_PREFIX, State.USER_PREFIX), keys, strict=True)
            for name, value in found[key].items()
        }

    def _session(self, found: dict[str, Any], shared: dict[str, Any]) -> Session:
        return Session(
            app_name=found["app"],
            user_id=found["user"],
            id=found["id"],
            state=found["state"] | shared,
            last_update_time=found["updated"],
        )

    def _key(self, *parts: str) -> str:
        return self._prefix + "/".join(map(to_segment, parts))


def _by_scope(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What of a state is the app's, the user's and the session's. What is temporary is nobody's."""
    found: dict[str, dict[str, Any]] = {"app": {}, "user": {}, "session": {}}
    for name, value in state.items():
        if name.startswith(State.APP_PREFIX):
            found["app"][name.removeprefix(State.APP_PREFIX)] = value
        elif name.startswith(State.USER_PREFIX):
            found["user"][name.removeprefix(State.USER_PREFIX)] = value
        elif not name.startswith(State.TEMP_PREFIX):
            found["session"][name] = value
    return found
