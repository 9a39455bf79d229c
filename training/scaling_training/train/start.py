"""What training goes on from: found, read and verified by rank 0, and the same on every rank.

A checkpoint that one process wrote, or several that hold the same, reaches the other ranks by broadcast: object
stores see one reader. Of one in parts, each rank reads those that it needs.
"""

from __future__ import annotations

import json
from functools import cached_property

from scaling_training.checkpoint import CheckpointRef, Checkpoints, LoadedCheckpoint
from scaling_training.checkpoint.manifest import Manifest
from scaling_training.checkpoint.state import POSITION
from scaling_training.parallel.mesh import Layout
from scaling_training.storage import USUAL_RATE, Storage
from scaling_training.world import World
from scaling_training.world.collectives import broadcast_bytes
from scaling_training.world.heartbeat import Beat, Phase, silent


class Start:
    """The checkpoint that an attempt goes on from, if any; see `Checkpoints.load_latest`, also for what is raised.

    It is looked for when first asked for. The methods are collective operations. ``beat`` is told what to expect of
    storage, for what took minutes to save takes minutes to read.
    """

    def __init__(
        self, checkpoints: Checkpoints, *, world: World, resume: CheckpointRef | None, beat: Beat = silent
    ) -> None:
        self._checkpoints = checkpoints
        self._world = world
        self._resume = resume
        self._beat = beat
        self._expected_s = 0.0  # that all reading up to here takes

    def layout(self) -> Layout | None:
        """What it says of the layout of as many processes as there are; None when it says nothing, or there is none.

        The content is kept for `take` only along with a layout: without one, all memory is there to find another.
        """
        said = None
        if self._world.is_first and self._found is not None:
            said = json.loads(self._found.read(POSITION))["position"].get("layout")
        known = json.loads(broadcast_bytes(self._world, json.dumps(said).encode() if self._world.is_first else None))
        layout = Layout.from_dict(known) if known else None
        if layout is not None and layout.shape.size == self._world.size:
            return layout
        vars(self).pop("_found", None)
        return None

    def take(self) -> LoadedCheckpoint | None:
        """The checkpoint, on every rank. Its content is kept here no longer, so ask for it last."""
        world = self._world
        found = self._found if world.is_first else None
        header = found and {
            "ref": found.ref.to_dict(),
            "manifest": found.manifest.to_bytes().decode(),
            "expectedS": self._expected_s,
        }
        said = json.loads(broadcast_bytes(world, json.dumps(header).encode() if world.is_first else None))
        vars(self).pop("_found", None)
        if said is None:
            return None
        ref, manifest = CheckpointRef.from_dict(said["ref"]), Manifest.from_bytes(said["manifest"].encode())
        # All have waited for rank 0 so far.
        self._expected_s = said["expectedS"]
        self._expect(manifest)
        kept: dict[str, bytes] = {}
        if manifest.is_whole:
            kept = {name: broadcast_bytes(world, found.read(name) if found else None) for name in manifest.files}
        storage = Storage(ref.root) if ref.root is not None else self._checkpoints.storage
        return LoadedCheckpoint(ref, manifest, storage, kept)

    @cached_property
    def _found(self) -> LoadedCheckpoint | None:
        return self._checkpoints.load_latest(self._resume, reading=self._expect)

    def _expect(self, manifest: Manifest) -> None:
        """Before the files of a checkpoint are read, or handed to the other ranks."""
        self._expected_s += manifest.size_bytes / USUAL_RATE
        self._beat(Phase.START, 0, expected_s=self._expected_s)
