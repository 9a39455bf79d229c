"""User code by name: ``package.module:function``, looked up and called so that its mistakes read as sentences.

A sentence about user code says the field that names it, what was raised, and the line of the user's own code where that
came from: not where torch noticed it, nor where this library called it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from scaling_training.errors import UserError

# Of the places that libraries are installed in; a factory's own package may lie there as well.
_INSTALLED = tuple({sysconfig.get_path("purelib") + os.sep, sysconfig.get_path("platlib") + os.sep})
_OURS = frozenset({"scaling_api", "scaling_cli", "scaling_training"})
_NOTE = "raised at "


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
            place = place_of(error, modules=[module_name])
            where = f", at {place}" if place else ""
            raise UserError(
                f"{field} {path}: {module_name} imports {error.name}, which is not installed{where}"
            ) from error
        raise UserError(
            f"{field} {path}: there is no module {error.name}; put it into the image or onto PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{field} {path}: importing {module_name} {told(error, modules=[module_name])}") from error
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
    with user_code(f"{field} {path}", modules=[path]):
        return function(**arguments)


@contextmanager
def user_code(what: str, *, modules: Iterable[str] = ()) -> Iterator[None]:
    """Turn what the user's code raises within into a UserError: ``what``, what was raised, and where.

    ``modules`` names modules (or paths of factories) that are the user's although they are installed like a library.
    sys.exit is no way out: a process that a job did not stop must not look like one that it did. A UserError passes as
    it is, and so does a lack of memory, which is nobody's mistake in the code.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise UserError(f"{what} {told(error, modules=modules)}") from error


def told(error: BaseException, *, modules: Iterable[str] = ()) -> str:
    """What was raised, in words: ``raised ValueError: no such layer, at models/speech.py:12``."""
    text, place = " ".join(str(error).split()), place_of(error, modules=modules)
    if isinstance(error, SystemExit):
        words = f"called sys.exit({error.code!r})"
    else:
        words = f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"
    return f"{words}, at {place}" if place and not isinstance(error, SyntaxError) else words


def place_of(error: BaseException, *, modules: Iterable[str] = ()) -> str | None:
    """File and line of the user's code that the exception came from; None when it came from none.

    The innermost line counts that lies in no library. An error that came from another process has it in a note.
    """
    for note in getattr(error, "__notes__", ()):
        if note.startswith(_NOTE):
            return str(note.removeprefix(_NOTE))
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if place := _users(frame.f_code.co_filename, line, frame.f_globals, modules):
            return place
    return None


def place_of_function(function: Any, *, modules: Iterable[str] = ()) -> str | None:
    """File and line of a function or method of the user's; None when it is of a library."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(function, "__code__", None)
    return None if code is None else _users(code.co_filename, code.co_firstlineno, function.__globals__, modules)


def _users(file: str, line: int, names: Mapping[str, Any], modules: Iterable[str]) -> str | None:
    """File and line, where the code with these global names is the user's."""
    roots = {name.partition(":")[0].partition(".")[0] for name in modules}
    root = str(names.get("__name__", "")).partition(".")[0]
    if root in _OURS or root in sys.stdlib_module_names or not os.path.isfile(file):
        return None
    return f"{_short(file)}:{line}" if root in roots or not file.startswith(_INSTALLED) else None


def raised_by(error: BaseException, package: str) -> bool:
    """Whether the package itself raised it, whoever had called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] == package


def note_place(error: BaseException, *, modules: Iterable[str] = ()) -> None:
    """Have `place_of` know the place where the exception arrives without its traceback: in another process."""
    place = place_of(error, modules=modules)
    if place is not None and not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
        error.add_note(f"{_NOTE}{place}")


def _short(file: str) -> str:
    """The file below the folder that Python found it in."""
    folders = [os.path.join(os.path.abspath(folder), "") for folder in sys.path]
    longest = max((folder for folder in folders if file.startswith(folder)), key=len, default="")
    return file.removeprefix(longest)
