# SPDX-License-Identifier: Apache-2.0
"""Networks as ONNX files: written, described by metadata and checked in ONNX Runtime.

A file holds standard operators of the default domain with static shapes. Input `images`
[B, 3, H, W] uint8 RGB 0..255; outputs `scores` [B, K, H, W] and `depth` [B, H, W] float32.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from depthforge_ros import __version__
from depthforge_ros.engine.cache import code_hash, weights_hash
from depthforge_ros.engine.engine import CropOutput, Shape
from depthforge_ros.network.deploy import Folded, Sampling, rewrite_for_openvino
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.export import export_network
from depthforge_ros.variant import Variant

if TYPE_CHECKING:
    import onnx_ir

OPSETS = (18, 19, 20)
DEFAULT_OPSET = 18
PRECISIONS = {"fp32": None, "fp16": torch.float16}
INPUT, OUTPUTS = "images", ("scores", "depth")
FORMAT = "1"
MIN_TORCH = "2.6"
"""The first PyTorch whose dynamo exporter takes an ExportedProgram for static shapes."""
PREFIX = "depthforge."
EXTERNAL_BYTES = 1 << 30
"""Weights of more bytes go into a file of their own: protobuf ends at 2 GiB."""
SPARE_BYTES = 64 << 20
"""Added to the bytes of the weights when free disk space is checked."""


class GraphError(ValueError):
    """A file is not an ONNX graph that this package can run as requested."""


@dataclass(frozen=True)
class GraphInfo:
    """Metadata of an exported graph, all of it text.

    labels: JSON list of class names in trainId order. weights, code: SHA-256 of the weights and of
    the network's source. depth_kind: `relative` or `metric`. max_depth_m, focal_px: empty if the
    depth head has none. shape: as `Shape` prints it.
    """

    format: str
    package: str
    variant: str
    labels: str
    weights: str
    code: str
    crop: str
    depth_kind: str
    max_depth_m: str
    focal_px: str
    shape: str
    precision: str

    @classmethod
    def of(cls, network: DepthForge, shape: Shape, precision: str) -> GraphInfo:
        """Describe the export of a network."""
        variant, head = network.variant, network.variant.depth_head
        return cls(
            format=FORMAT,
            package=__version__,
            variant=variant.name,
            labels=label_names(variant),
            weights=weights_hash(network),
            code=code_hash(),
            crop=str(variant.crop),
            depth_kind=head.kind.value,
            max_depth_m="" if head.max_depth_m is None else f"{head.max_depth_m:g}",
            focal_px="" if head.focal_px is None else f"{head.focal_px:g}",
            shape=str(shape),
            precision=precision,
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> GraphInfo:
        """Read the metadata of a file. Raise GraphError if another program wrote the file."""
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if PREFIX + name not in metadata]
        if missing:
            raise GraphError(
                f"{source} was not written by `depthforge export`: it lacks the metadata "
                f"{', '.join(PREFIX + name for name in missing)}"
            )
        info = cls(**{name: metadata[PREFIX + name] for name in names})
        if info.format != FORMAT:
            raise GraphError(f"{source} has format {info.format!r}; expected {FORMAT!r}")
        return info

    def metadata(self) -> dict[str, str]:
        """Return the entries of the file's metadata_props."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    def require(self, variant: Variant, shape: Shape, source: str) -> None:
        """Raise GraphError if the graph was exported for other classes or another shape."""
        if self.labels != label_names(variant):
            count = len(json.loads(self.labels))
            raise GraphError(
                f"{source} has the {count} classes of variant {self.variant!r}; expected the "
                f"{len(variant.labels)} classes of {variant.labels.name!r} ({variant.name})"
            )
        if self.shape != str(shape):
            raise GraphError(f"{source} is for images of {self.shape}; expected {shape}")


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference from eager fp32 over the largest absolute value, per output."""

    scores: float
    depth: float

    def __str__(self) -> str:
        return f"scores {self.scores:.1e}, depth {self.depth:.1e} of the scale"


def label_names(variant: Variant) -> str:
    """Return the class names of a variant as a JSON list."""
    return json.dumps([label.name for label in variant.labels.classes])


def require_exportable(precision: str, opset: int) -> None:
    """Raise ValueError for a precision, an opset or a PyTorch that cannot be used."""
    if torch.__version__ < MIN_TORCH:  # a version, not only text
        raise ValueError(f"PyTorch is {torch.__version__}; ONNX export needs {MIN_TORCH} or later")
    if precision == "bf16":
        raise ValueError(
            "precision is 'bf16'; expected fp32 or fp16: ONNX's Conv takes no bfloat16 before "
            "opset 22. Export fp32 and let the runtime compute in bf16"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if opset not in OPSETS:
        raise ValueError(f"opset is {opset}; expected one of {', '.join(map(str, OPSETS))}")


def convert(
    network: DepthForge,
    shape: Shape,
    precision: str = "fp32",
    opset: int = DEFAULT_OPSET,
    *,
    for_openvino: bool = False,
) -> onnx_ir.Model:
    """Convert a network on the CPU to ONNX, with its metadata.

    for_openvino: rewritten for OpenVINO, with GridSample; otherwise deformable attention gathers.

    Raise ValueError for a precision or opset that cannot be exported.
    """
    require_exportable(precision, opset)
    sampling = Sampling.GRID if for_openvino else Sampling.GATHER
    folded = Folded(network, PRECISIONS[precision], sampling)
    if for_openvino:
        rewrite_for_openvino(folded)
    program = export_network(folded, shape.height, shape.width, shape.batch)
    with _quiet():
        graph = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            optimize=False,  # runtimes do it, in a fraction of the time
            verbose=False,
        )
    assert graph is not None
    model = graph.model
    name_nodes(model)
    model.metadata_props.update(GraphInfo.of(network, shape, precision).metadata())
    return model


def name_nodes(model: onnx_ir.Model) -> None:
    """Name nodes by the modules they come from, for profilers, and remove the exporter's notes.

    Those hold stack traces with the paths of this machine.
    """
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
        scope = next((name for name in reversed(ast.literal_eval(scopes)[:-1]) if name), "")
        node.name = f"{scope.removeprefix('network.')}/{node.name}"  # what a profiler shows
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    for value in model.graph.initializers.values():
        value.metadata_props.clear()


def write_graph(model: onnx_ir.Model, file: Path, external_bytes: int = EXTERNAL_BYTES) -> None:
    """Write a converted network and check the file with onnx.checker.

    Weights of more than external_bytes together go into `file`.data beside it. Raise OSError if the
    disk is full or not writable.
    """
    import onnx
    import onnx_ir

    values = model.graph.initializers.values()
    size = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    free = shutil.disk_usage(file.parent).free
    if free < size + SPARE_BYTES:
        raise OSError(
            errno.ENOSPC,
            f"{free >> 20} MiB are free; expected at least {(size + SPARE_BYTES) >> 20} MiB",
            str(file.parent),
        )
    data = f"{file.name}.data" if size > external_bytes else None
    onnx_ir.save(model, file, external_data=data)
    onnx.checker.check_model(str(file))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's notes on torchvision and deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class OnnxRuntimeEngine:
    """Runs an exported graph in ONNX Runtime on the CPU. Raise GraphError for an unusable file."""

    backend = "onnxruntime"

    def __init__(self, file: Path, variant: Variant, shape: Shape, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Packed copies of the weights double the memory; big variants are only checked here.
        if file.with_name(f"{file.name}.data").exists():
            options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own types, below Exception
            raise GraphError(f"ONNX Runtime cannot read {file}: {_first_line(error)}") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.info = GraphInfo.from_metadata(metadata, str(file))
        self.info.require(variant, shape, str(file))
        self.variant, self.precision = variant, self.info.precision
        self.device = torch.device("cpu")

    def __call__(self, crops: Tensor, *, depth: bool) -> CropOutput:
        """Scores [B, K, h, w] and depth [B, h, w] float32 for crops [B, 3, h, w] uint8."""
        names = OUTPUTS if depth else OUTPUTS[:1]
        found = [
            torch.from_numpy(array)
            for array in self._session.run(list(names), {INPUT: np.ascontiguousarray(crops)})
        ]
        return CropOutput(found[0], found[1] if depth else None)


def difference(seen: CropOutput, expected: CropOutput) -> Difference:
    """Compare two answers to the same images, both with depth."""

    def of(ours: Tensor | None, theirs: Tensor | None) -> float:
        assert ours is not None
        assert theirs is not None
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12)
        return float(error) if bool(ours.isfinite().all()) else float("inf")

    return Difference(of(seen.scores, expected.scores), of(seen.depth, expected.depth))


@contextlib.contextmanager
def kept_on_success(file: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `file`, and move what was written
    there to its place if the block succeeds.

    Raise FileExistsError if `file` exists, OSError if the folder cannot be written.
    """
    if file.exists():
        raise FileExistsError(errno.EEXIST, "exists; choose another name or remove it", str(file))
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(file.parent))
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=file.parent) as folder:
        yield Path(folder) / file.name
        # The graph last: it refers to the data.
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == file.name):
            os.replace(path, file.with_name(path.name))


def _first_line(error: Any) -> str:
    return " ".join(str(error).split())[:300]
