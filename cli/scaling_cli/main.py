"""`scalingjob`: the command line.

Each command is a module with ``add_arguments(parser)`` and ``run(args) -> int``, which returns the exit
code. Modules are imported only when their command is asked for, because some of them bring Ray and torch:
`scalingjob --help` is instant. A UsageError ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from scaling_cli.errors import UsageError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: its module below scaling_cli is named after it."""

    name: str
    summary: str


COMMANDS = (
    Command("validate", "check manifests, without a cluster"),
    Command("render", "print the objects that the operator would create"),
    Command("run", "run a job on this machine"),
    Command("status", "follow a job on a cluster"),
)


class CommandModule(Protocol):
    """What a subcommand's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Carry the command out; returns the exit code, raises UsageError for a user's mistake."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        print(f"scalingjob: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away; keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="scalingjob", description="Run ScalingJobs, here or on a cluster.")
    parser.add_argument("--version", action=_Version, help="show the version of this program")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    module: CommandModule | None = None
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.summary, description=command.summary)
        if command.name == wanted:
            # Seconds of imports, for some: an interrupt comes here more often than anywhere else.
            module = _load(command)
            module.add_arguments(subparser)
    args = parser.parse_args(arguments)
    if module is None:
        raise AssertionError("argparse accepted a command that is not in the table")
    return module.run(args)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        """Print it and end."""
        from importlib.metadata import version

        print(f"scalingjob {version('scalingjob')}")
        parser.exit()


def _load(command: Command) -> CommandModule:
    return cast(CommandModule, import_module(f"scaling_cli.{command.name}"))


if __name__ == "__main__":
    sys.exit(main())
