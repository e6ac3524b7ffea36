"""What a record says about an exception, whatever that exception does: reporting a failure must not fail."""

from __future__ import annotations

import traceback
from typing import Any

from storage_lib.errors import InvalidArgumentError, StorageError
from storage_lib.tasks.escapes import EscapedError
from storage_lib.tasks.jsonvalues import told
from storage_lib.tasks.model import TaskError

MAX_CODE_CHARACTERS = 128


def error_of(error: BaseException) -> TaskError:
    """The code (a `StorageError.code` or the class name), message and traceback of an exception."""
    if isinstance(error, EscapedError):
        error = error.original
    # An error may quote what is not valid text (a file name in another encoding); it is stored nevertheless.
    code, message, trace = (
        text.encode(errors="backslashreplace").decode()
        for text in (_code(error), _said(error), _trace(error))
    )
    return TaskError(code[:MAX_CODE_CHARACTERS], message, trace)


def _code(error: BaseException) -> str:
    try:
        code: Any = error.code if isinstance(error, StorageError) else None
        return str(code if code is not None else "").strip() or type(error).__name__
    except BaseException:  # a class of the user's may do anything
        return type(error).__name__


def _said(error: BaseException) -> str:
    if isinstance(error, StorageError):
        try:
            return error.explained() or type(error).__name__
        except BaseException:  # a class of the user's may do anything
            return told(error)
    return told(error)


def _trace(error: BaseException) -> str:
    if isinstance(error, InvalidArgumentError):
        return ""  # The submitter of the task made it.
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as problem:  # a class of the user's may do anything
        return f"{type(error).__name__}; its traceback cannot be told: {type(problem).__name__}"
