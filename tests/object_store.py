"""An object store on this machine: moto's S3, and the credentials that a Secret would put into the environment.

It is a process of its own: readers of data are forked, and a fork of a process that serves may find its locks held.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from s3fs import S3FileSystem

BUCKET = "runs"


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A server with one bucket."""

    environment: Mapping[str, str]
    uri: str


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """The store, empty, as long as it is needed."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        assert endpoint, "the store did not start: python -m tests.object_store says why"
        requests.put(f"{endpoint}/{BUCKET}", timeout=60).raise_for_status()
        environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        # A file system is kept for the next who asks for one with the same arguments, and knows the server of before.
        S3FileSystem.clear_instance_cache()
        try:
            yield ObjectStore(environment, f"s3://{BUCKET}")
        finally:
            S3FileSystem.clear_instance_cache()
            server.stdin.close()


def _serve() -> None:
    """Serve until standard input ends, which it does with the test that started this."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    _serve()
