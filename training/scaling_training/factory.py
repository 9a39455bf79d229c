"""User code by name: ``package.module:function``, looked up and called so that its mistakes read as sentences."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from scaling_training.errors import UserError


def resolve(path: str, *, field: str) -> Callable[..., Any]:
    """The function (or class) that the path names; ``field`` is the spec's field that holds the path.

    UserError when the path has another form, the module is not there or fails to import, or it has no such
    function.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UserError(f"{field} {path} is not package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            # The module is there; what it imports is not.
            raise UserError(f"{field} {path}: {module_name} imports {error.name}, which is not installed") from error
        raise UserError(
            f"{field} {path}: there is no module {error.name}; put it into the image or onto PYTHONPATH"
        ) from error
    except Exception as error:
        raise UserError(f"{field} {path}: importing {module_name} raised {_told(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"{field} {path}: module {module_name} has no {attribute}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{field} {path} is no function but a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def call(path: str, *, field: str, **arguments: Any) -> Any:
    """What the function at the path returns for these arguments.

    UserError for what `resolve` refuses and for whatever the function raises, a wrong argument included; a
    UserError of the function itself passes as it is.
    """
    function = resolve(path, field=field)
    try:
        return function(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{field} {path} raised {_told(error)}") from error


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
