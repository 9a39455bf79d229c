"""`scalingjob run`: a job on this machine, by the same driver as on a cluster.

Everything goes into one run folder. A run that was interrupted, or killed, goes on with --resume: finished
stages are taken from the folder's ledger, an unfinished training from its last checkpoint. An edited manifest
runs again only what depends on the edit.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scaling_api.spec import ScalingJob
from scaling_cli.errors import UsageError
from scaling_cli.manifest import load_job

if TYPE_CHECKING:
    from scaling_training.driver import ShowMaker
    from scaling_training.ending import Ending
    from scaling_training.progress.model import ProgressModel
    from scaling_training.progress.show import Ears, Show

RUNS = "runs"
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="a manifest; - reads standard input")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--run-dir", metavar="DIR", help=f"folder of the run, new or empty (default: {RUNS}/NAME-TIME)")
    place.add_argument("--resume", metavar="DIR", help="go on with an earlier run's folder")
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --resume: go on though the folder looks in use; the run that uses it is stopped, if it lives",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="training processes, instead of training.parallelism.data"
    )


def run(args: argparse.Namespace) -> int:
    """Run the job; returns the exit code, raises UsageError for what can be seen before it starts."""
    from scaling_training.timeline import Timeline

    timeline = Timeline()
    job = load_job(args.file, on_cluster=False)
    if args.workers is not None:
        job = _with_workers(job, args.workers)
    if args.force and not args.resume:
        raise UsageError("--force says to go on with a folder that looks in use: name it by --resume")
    folder = _resumed(args.resume) if args.resume else _new(args.run_dir, job.metadata.name)

    from scaling_api.driver import ExitCode
    from scaling_training.driver import drive
    from scaling_training.errors import UserError
    from scaling_training.lease import next_attempt
    from scaling_training.settings import Settings
    from scaling_training.storage import Storage

    try:
        storage = Storage(str(folder))
        settings = Settings(
            job=job,
            storage=storage,
            attempt=next_attempt(storage, force=args.force, wait=_listen),
            storage_root=str(folder.parent),
            timeline=timeline,
        )
        # Without Ray nothing here would come to an end by itself.
        ending = drive(settings, [_show_maker(folder)], lambda ending: os._exit(_finish(ending, args, folder)))
    except UserError as error:
        if not args.resume:
            _clear_away(folder, str(error))
        raise UsageError(str(error)) from error
    if ending.code == ExitCode.REFUSED and ending.termination is not None and not args.resume:
        _clear_away(folder, ending.termination.message)
    return _finish(ending, args, folder)


def _listen(seconds: float) -> None:
    print(
        f"looking for {seconds:.0f} s whether the run is still at work on another machine", file=sys.stderr, flush=True
    )
    time.sleep(seconds)


def _with_workers(job: ScalingJob, workers: int) -> ScalingJob:
    batch, axes = job.spec.training.batch_size, job.spec.training.parallelism
    if not 1 <= workers <= batch * axes.tensor * axes.pipeline:
        raise UsageError(
            f"--workers is {workers}; it must be at least 1 and at most training.batchSize ({batch}), "
            "because each process needs a sample per step"
        )
    training = job.spec.training
    group = axes.model_group
    if workers % group:
        raise UsageError(
            f"--workers is {workers}; training.parallelism (fsdp times tensor times "
            f"pipeline) needs a multiple of {group} processes"
        )
    parallelism = axes.model_copy(update={"data": workers // group})
    changed = training.model_copy(update={"parallelism": parallelism})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"training": changed})})


def _resumed(named: str) -> Path:
    folder = _path(named)
    if not folder.is_dir():
        raise UsageError(f"--resume {named}: no such folder; name the folder of an earlier run, e.g. {_latest_run()}")
    if not (folder / "attempts").is_dir():
        raise UsageError(f"--resume {named} is no run folder: it has no attempts/; name one below {RUNS}/")
    return folder.resolve()


def _path(named: str) -> Path:
    """A shell leaves the ~ of --resume=~/runs/one alone; UsageError for what cannot be named in the files of a run."""
    try:
        path = Path(named).expanduser().absolute()
        str(path).encode()
    except RuntimeError as error:
        raise UsageError(f"{named}: nobody knows the home of this user; name the folder by its whole path") from error
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{os.fsencode(path)!a} is no UTF-8, which the files of a run must name it in; name another folder"
        ) from error
    return path


def _latest_run() -> str:
    found = sorted(Path(RUNS).glob("*/attempts"), key=lambda path: path.stat().st_mtime)
    return str(found[-1].parent) if found else f"{RUNS}/NAME-TIME"


def _new(named: str | None, job: str) -> Path:
    folder = _path(named or f"{RUNS}/{job}-{datetime.now().strftime('%Y%m%d-%H%M%S')}")
    if (folder / "attempts").is_dir():
        raise UsageError(f"--run-dir {folder} holds a run already: go on with it by --resume {folder}, or name another")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--run-dir {folder} is not an empty folder; name a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}; name another place by --run-dir") from error
    return folder.resolve()


def _clear_away(folder: Path, refusal: str) -> None:
    """Leave no folder of a new run that was refused before it trained, unless the refusal speaks of a file in it."""
    named = any(file.name in refusal for file in folder.rglob("*") if file.is_file())
    if named or (folder / "checkpoints").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        if folder.parent == Path(RUNS).resolve():
            folder.parent.rmdir()  # when it was made for this run, it is empty again


def _show_maker(folder: Path) -> ShowMaker:
    """Live bars on a terminal, lines elsewhere."""

    def make(model: ProgressModel, ears: Ears) -> Show:
        from scaling_training.report.summary import shown_path

        print(f"run folder: {shown_path(str(folder))}", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            from rich.console import Console

            from scaling_training.progress.terminal import TerminalShow

            return TerminalShow(model, Console(stderr=True))
        from scaling_training.progress.lines import LineShow

        return LineShow(model, lambda line: print(line, file=sys.stderr, flush=True))

    return make


def _finish(ending: Ending, args: argparse.Namespace, folder: Path) -> int:
    """The last words and the exit code."""
    from scaling_api.driver import ExitCode
    from scaling_training.report.summary import print_summary, shown_path

    if ending.result is not None:
        from rich.console import Console

        print_summary(Console(), ending.result)
        return 0
    again = f"scalingjob run {shlex.quote(args.file)} --resume {shlex.quote(shown_path(str(folder)))}"
    if args.workers is not None:
        again += f" --workers {args.workers}"
    message = ending.termination.message if ending.termination else "the run failed"
    if ending.code == ExitCode.STOPPED:
        print(f"{_sentence(message)} Go on with: {again}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if ending.code == ExitCode.REFUSED:
        print(f"scalingjob: {message}", file=sys.stderr)
        return EXIT_REFUSED
    print(f"scalingjob: {message}\nTry again from the last checkpoint with: {again}", file=sys.stderr)
    return EXIT_FAILED


def _sentence(text: str) -> str:
    return re.sub(r"[.!]?$", ".", text[:1].upper() + text[1:], count=1)
