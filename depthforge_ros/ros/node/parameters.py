# SPDX-License-Identifier: Apache-2.0
"""The values of all parameters, validated.

parameter_groups.py declares them; parameter_descriptors.py makes ROS parameters of the
declarations. The node reads one frozen `Parameters`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthforge_ros.image_size import parse_size
from depthforge_ros.occupancy import CameraPose
from depthforge_ros.ros.images import INPUT_ENCODINGS
from depthforge_ros.ros.node.camera_names import camera_names
from depthforge_ros.ros.node.parameter_groups import (
    ALL,
    GroundParameters,
    InputParameters,
    MonitoringParameters,
    NetworkParameters,
    OutputParameters,
)

if TYPE_CHECKING:
    from depthforge_ros.pipeline import PipelineSettings


OUTPUTS = (
    "semantic",
    "confidence",
    "depth",
    "inverse_depth",
    "points",
    "drivable",
    "camera_info",
    "semantic_color",
    "overlay",
    "overlay/compressed",
    "semantic/compressed",
)
"""Every output of a frame, by the name of its private topic."""

OUTPUTS_FOR_PEOPLE = frozenset(
    {"semantic_color", "overlay", "overlay/compressed", "semantic/compressed"}
)
"""Outputs that are drawn after all others are published: no planner waits for a picture."""

LATCHED = ("labels", "label_info", "legend")
"""Latched topics that describe the classes, by the names of their private topics."""


@dataclass(frozen=True)
class Parameters(  # fields in the order of the bases from last to first
    MonitoringParameters, GroundParameters, OutputParameters, InputParameters, NetworkParameters
):
    """The values of all parameters. Raises ValueError naming a value that is not allowed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", camera_names(self.cameras))  # ROS gives lists
        for field in dataclasses.fields(self):
            value, allowed = getattr(self, field.name), field.metadata
            if allowed["choices"] and value not in allowed["choices"]:
                raise ValueError(
                    f"{field.name} is {value!r}; expected one of {', '.join(allowed['choices'])}"
                )
            if allowed["low"] is not None and not allowed["low"] <= value <= allowed["high"]:
                raise ValueError(
                    f"{field.name} is {value}; expected {allowed['low']}..{allowed['high']}"
                )
        self.image_sizes()
        self.colors()
        self.poses()
        if self.encoding and self.encoding not in INPUT_ENCODINGS:
            raise ValueError(
                f"encoding is {self.encoding!r}; expected nothing, or one of "
                f"{', '.join(INPUT_ENCODINGS)}"
            )
        if 0 < self.sample_bits < 9:
            raise ValueError(f"sample_bits is {self.sample_bits}; expected 0 or 9..16")
        if 0 < self.short_side_px < 64:
            raise ValueError(f"short_side_px is {self.short_side_px}; expected 0 or 64..4096")
        if 0 < self.camera_height_m < 0.1:
            raise ValueError(f"camera_height_m is {self.camera_height_m}; expected 0 or 0.1..10")
        unknown = sorted(self.allowed_outputs() - {*OUTPUTS})
        if unknown or not self.allowed_outputs():
            raise ValueError(
                f"outputs is {self.outputs!r}; expected {ALL}, or some of {', '.join(OUTPUTS)}"
            )

    def allowed_outputs(self) -> frozenset[str]:
        """Names of the outputs that may be published."""
        if self.outputs.strip() == ALL:
            return frozenset(OUTPUTS)
        return frozenset(name.strip() for name in self.outputs.split(",") if name.strip())

    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Return height and width of every image size that `image_size` names."""
        sizes = []
        for text in filter(None, self.image_size.replace(" ", "").split(",")):
            width, height = parse_size(text, "image_size")
            sizes.append((height, width))
        return tuple(sizes)

    def colors(self) -> dict[str, tuple[int, int, int]]:
        """The colours that `palette` gives to classes, by name: red, green, blue 0..255."""
        colors = {}
        for entry in filter(None, map(str.strip, self.palette.split(","))):
            found = re.fullmatch(r"([^=]+)=#([0-9a-fA-F]{6})", entry)
            if found is None or found[1] in colors:
                raise ValueError(
                    f"palette is {self.palette!r}; expected CLASS=#RRGGBB, like person=#ff0000, "
                    "each class once, no space before #, several joined by commas, or nothing"
                )
            red, green, blue = bytes.fromhex(found[2])
            colors[found[1]] = (red, green, blue)
        return colors

    def poses(self) -> dict[str, CameraPose]:
        """Return the poses that `camera_poses` gives to cameras, by name."""
        poses: dict[str, CameraPose] = {}
        for entry in filter(None, map(str.strip, self.camera_poses.split(","))):
            name, *numbers = entry.split()
            try:
                x, y, z, roll, pitch, yaw = map(float, numbers)
                pose = CameraPose(z, x, y, roll, pitch, yaw)
            except ValueError as error:
                reason = "" if len(numbers) != 6 else f": {error}"
                raise ValueError(
                    f"camera_poses has {entry!r}; expected CAMERA x y z roll pitch yaw, several "
                    f"joined by commas{reason}"
                ) from error
            if name in poses:
                raise ValueError(f"camera_poses has {name!r} twice; expected it once")
            poses[name] = pose
        return poses

    def pipeline_settings(self) -> PipelineSettings:
        """The part of the parameters that the pipeline reads at every frame."""
        # The pipeline brings PyTorch along, seconds that a starting node does not have to wait.
        from depthforge_ros.pipeline import Mode, PipelineSettings

        return PipelineSettings(
            mode=Mode(self.mode),
            short_side_px=self.short_side_px or None,
            confidence_threshold=self.confidence_threshold,
            full_size=self.full_size,
            max_batch=self.max_batch,
        )
