"""Writes a trained network in other formats, and checks each file against the network itself."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_attn.errors import FileError, NasAttnError, in_one_line
from nas_attn.model.build import AttentionModel
from nas_attn.model.description import ModelFile
from nas_attn.model.python_file import python_source

TOLERANCE = 1e-4
"""Greatest difference of a logit, relative to the greatest logit if that is above 1."""

BATCHES = (1, 2, 5)
"""Sizes of the batches that a file is checked with; it is written from a batch of another size."""

Run = Callable[[list[Tensor]], list[Tensor]]
"""Computes the logits of several batches."""


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        write: Writes the network to a path, from a batch of example inputs.
        read: Returns the function that a written file computes.
    """

    suffix: str
    about: str
    write: Callable[[AttentionModel, ModelFile, Path, Tensor], None]
    read: Callable[[Path], Run]


@dataclass(frozen=True)
class Written:
    """A network that was written and checked.

    Args:
        paths: Its files, the main one first.
        difference: The greatest difference of a logit from the network's own.
    """

    paths: tuple[Path, ...]
    difference: float


def write_format(name: str, model: AttentionModel, described: ModelFile, path: Path) -> Written:
    """Write a network in one format of `FORMATS`, and check the file with batches of several sizes.

    Args:
        model: In evaluation mode.
        path: The file, without the format's suffix.
    Raises: FileError if the network cannot be written in that format, or the file computes something else.
    """
    form = FORMATS[name]
    path = path.with_name(path.name + form.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        try:
            form.write(model, described, draft, _images(model, max(BATCHES) - 1))
            difference = _difference(model, form.read(draft), name)
        except NasAttnError:
            raise
        except Exception as error:  # an exporter may raise anything
            reason = f"{type(error).__name__}: {in_one_line(error)[:300]}"
            raise FileError(f"The network cannot be written as {form.about}: {reason}.") from error
        files = sorted((file for file in Path(folder).iterdir() if file.is_file()), key=lambda file: file != draft)
        paths = tuple(file.replace(path.with_name(file.name)) for file in files)
    return Written(paths, difference)


def _images(model: AttentionModel, n: int) -> Tensor:
    """Return n random inputs, the same in every call."""
    generator = torch.Generator().manual_seed(n)
    size = model.image_size
    return torch.randn(n, model.in_channels, size, size, generator=generator)


def _difference(model: AttentionModel, run: Run, name: str) -> float:
    """Return the greatest difference of a logit. Raises: FileError if it exceeds the tolerance."""
    batches = [_images(model, n) for n in BATCHES]
    greatest = 0.0
    for images, found in zip(batches, run(batches), strict=True):
        n, expected = len(images), model(images)
        if found.shape != expected.shape:
            raise FileError(
                f"The {name} file returns {tuple(found.shape)} for {n} images and the network {tuple(expected.shape)}: "
                "it does not take batches of any size."
            )
        difference = float((found - expected).abs().max())
        greatest = max(greatest, difference)
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise FileError(f"The {name} file differs from the network by {difference:.2g} for {n} images.")
    return greatest


def _write_onnx(model: AttentionModel, described: ModelFile, path: Path, images: Tensor) -> None:
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model,
        (images,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes={"images": {0: batch}},
        external_data=False,
        verbose=False,
    )


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batches: [torch.from_numpy(session.run(None, {"images": images.numpy()})[0]) for images in batches]


def _write_export(model: AttentionModel, described: ModelFile, path: Path, images: Tensor) -> None:
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}}), path)


def _read_export(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda batches: list(map(module, batches))


def _write_script(model: AttentionModel, described: ModelFile, path: Path, images: Tensor) -> None:
    torch.jit.trace(model, images, check_trace=False).save(str(path))  # type: ignore[no-untyped-call]  # torch's own


def _read_script(path: Path) -> Run:
    module = torch.jit.load(str(path))  # type: ignore[no-untyped-call]  # torch's own
    return lambda batches: list(map(module, batches))


def _write_python(model: AttentionModel, described: ModelFile, path: Path, images: Tensor) -> None:
    weights = path.with_suffix(".pt")
    path.write_text(python_source(model, described, weights.name), encoding="utf-8")
    torch.save({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, weights)


_ALONE = """
import runpy, sys
sys.modules["nas_attn"] = None  # an import of it fails
network = runpy.run_path(sys.argv[1])["load_network"]()
import torch
with torch.no_grad():
    torch.save([network(images) for images in torch.load(sys.argv[2], weights_only=True)], sys.argv[3])
"""
"""Program that runs a written Python file without this package."""


def _read_python(path: Path) -> Run:
    """Return the function of a Python file, which another process runs without this package."""

    def run(batches: list[Tensor]) -> list[Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            inputs, outputs = Path(folder) / "images.pt", Path(folder) / "logits.pt"
            torch.save(batches, inputs)
            words = [sys.executable, "-c", _ALONE, str(path), str(inputs), str(outputs)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                raise FileError(f"The Python file does not run without nas_attn: {last}")
            logits: list[Tensor] = torch.load(outputs, weights_only=True)
            return logits

    return run


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", "ONNX", _write_onnx, _read_onnx),
    "torch-export": Format(".pt2", "a torch.export program", _write_export, _read_export),
    "torchscript": Format(".torchscript", "TorchScript", _write_script, _read_script),
    "python": Format(".py", "one Python file", _write_python, _read_python),
}
"""The formats by the name of their option."""

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages that a format needs beside torch: those of the extra with its name."""


def check_packages(name: str) -> None:
    """Refuse a format whose packages are missing. Raises: FileError with the command that installs them."""
    missing = [package for package in NEEDED.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise FileError(
            f"--{name} needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}: "
            f"pip install 'nas_attn[{name}]'."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: warnings and log lines of the exporters, which concern torch's own code, are left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
