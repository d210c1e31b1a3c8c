"""What every worker of a run gets: the context, the images, initial weights and modules, through Ray's object store.

Nothing on a worker is read from the driver's disk: a node gets each of them once, however many workers it has. Only
images that are too large for memory stay in their cache file where Ray runs on the driver's machine alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import cloudpickle

from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.data.entry import DataSource
from nas_attn.data.shared import ImagesInBlocks, LargeImages, SharedImages, share
from nas_attn.executors.modules import Source, install, own_sources, pickled
from nas_attn.training.context import TrialContext

_LOCK, _USED = "lock", "used"
"""Files of a folder of sent files: locked while it is written, and by each process that uses it."""

_IN_USE: list[IO[bytes]] = []
"""The open files `used`, until this process ends."""


@dataclass(frozen=True, eq=False)
class SentFile:
    """A file of the driver's disk.

    Shape: content (N,) uint8: an array, which the processes of a node share.
    """

    name: str
    content: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Shipped:
    """A run's context on its way to the workers.

    Args:
        context: Pickled by `cloudpickle`; it may need the modules.
        images: The images, or what is needed beside their blocks; None if each worker reads them itself.
        blocks: Objects of the store, each a block of the pixels, in their order.
        weights: The backbone's initial weights, and the model file beside them.
        modules: The user's own modules by name.
    """

    context: bytes
    images: SharedImages | ImagesInBlocks | None = None
    blocks: tuple[Any, ...] = ()
    weights: tuple[SentFile, ...] = ()
    modules: Mapping[str, Source] = field(default_factory=dict)

    def unpacked(self) -> TrialContext:
        """Return the context, in a worker."""
        install(self.modules)
        context: TrialContext = cloudpickle.loads(self.context)
        images = self.images
        if isinstance(images, ImagesInBlocks):
            images = images.mapped_from(_written(images.facts.fingerprint, {"images": self._fetched}) / "images")
        if self.weights:
            assert not isinstance(context.backbone, OwnNetwork), "only a spec names weights"
            digest = hashlib.sha256(self.weights[0].content.data).hexdigest()
            folder = _written(digest, {file.name: partial(_one_block, file) for file in self.weights})
            context = replace(context, backbone={**context.backbone, "weights": str(folder / self.weights[0].name)})
        return replace(context, images=images)

    def _fetched(self) -> Iterable[NDArray[np.uint8]]:
        return (ray.get(block) for block in self.blocks)


def _one_block(file: SentFile) -> Iterable[NDArray[np.uint8]]:
    return (file.content,)


def ship(context: TrialContext, *, one_machine: bool, data_on_nodes: bool = False) -> Shipped:
    """Return what the workers of a run get.

    Args:
        one_machine: Whether all workers run on the driver's machine, and read weights, modules and cache files there.
        data_on_nodes: Whether every node has the images under the same path.
    Raises: DataError if the images have changed.
    """
    images: SharedImages | ImagesInBlocks | None = None
    blocks: tuple[Any, ...] = ()
    if context.data is not None and context.train is None and not data_on_nodes:
        found = share(context.data, context.fingerprint)
        if isinstance(found, SharedImages):
            images = found
        elif not one_machine:
            images, blocks = found.in_blocks, _put(found)
    if images is not None:  # a source that holds its images would send them again
        registered = tuple(record for record in context.registered if not isinstance(record, DataSource))
        context = replace(context, registered=registered)
    packed = pickled(context)
    if one_machine:
        return Shipped(packed, images)
    return Shipped(packed, images, blocks, tuple(_weights(context)), own_sources())


def _put(images: LargeImages) -> tuple[Any, ...]:
    """Put the pixels into the object store block by block; it moves to the disk what does not fit."""
    return tuple(ray.put(block) for block in images.blocks())


def _weights(context: TrialContext) -> Iterable[SentFile]:
    """Yield the file of the backbone's initial weights, and the model file beside it, which names the classes."""
    name = None if isinstance(context.backbone, OwnNetwork) else context.backbone.get("weights")
    if name is not None:
        file = Path(name)
        for path in (file, file.with_suffix(".json")):
            if path.is_file():
                yield SentFile(path.name, np.fromfile(path, np.uint8))


def _written(digest: str, files: Mapping[str, Callable[[], Iterable[NDArray[np.uint8]]]]) -> Path:
    """Return a folder of this machine with files that its first worker writes; the others wait for it.

    Args:
        digest: Names the folder: another content has another one.
        files: The blocks of each file.
    """
    folder = _own_folder() / digest[:32]
    with _locked(folder):
        for name, blocks in files.items():
            part = folder / f"{name}.part"
            if not (folder / name).is_file():
                with part.open("wb") as file:
                    for block in blocks():
                        file.write(np.ascontiguousarray(block).data)
                part.replace(folder / name)
        used = (folder / _USED).open("wb")
        fcntl.flock(used, fcntl.LOCK_SH)
        _IN_USE.append(used)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Context manager: make a folder, and lock it for this process; another one may remove it until then."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            lock = (folder / _LOCK).open("wb")
        except FileNotFoundError:
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock.fileno()).st_nlink:
                yield
                return


def _own_folder() -> Path:
    """Return this user's folder for sent files on this machine, without those of runs that have ended.

    Nobody else can write to it: a folder that belongs to somebody else is not used.
    """
    folder = Path(tempfile.gettempdir()) / f"nas_attn-sent-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="nas_attn-sent-"))
    for other in folder.iterdir():
        _remove_unused(other)
    return folder


def _remove_unused(folder: Path) -> None:
    """Remove the folder of a content that no process uses or writes."""
    try:
        with (folder / _LOCK).open("rb") as lock, (folder / _USED).open("rb") as used:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, or being made
        return
