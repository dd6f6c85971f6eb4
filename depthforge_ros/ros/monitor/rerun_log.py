# SPDX-License-Identifier: Apache-2.0
"""Messages of the node as entities of a Rerun recording (https://rerun.io, the extra `view`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header, String

from depthforge_ros.ros.images import BadImage, ImageReader, stamp_ns
from depthforge_ros.ros.monitor.report import Level, Report, per_second, reports_of

APPLICATION = "depthforge"
TIMELINE = "stamp"
MAX_POINTS = 200_000
"""Points shown of a cloud; a larger one is thinned evenly."""

OPACITY = 0.5
LEVELS = {
    Level.OK: rr.TextLogLevel.INFO,
    Level.WARN: rr.TextLogLevel.WARN,
    Level.ERROR: rr.TextLogLevel.ERROR,
    Level.STALE: rr.TextLogLevel.CRITICAL,
}
SCALARS = {
    "rate/in": "frames in",
    "rate/out": "frames out",
    "latency/p50": "latency p50 ms",
    "latency/p99": "latency p99 ms",
    "latency/age": "frame age ms",
}


class RerunLog:
    """Logs every message at its stamp. count: messages of the node that were logged."""

    def __init__(self, node: str, camera: str, max_depth_m: float) -> None:
        self._node, self._camera, self._max_depth_m = node, camera, max_depth_m
        self._recording = rr.RecordingStream(APPLICATION)
        self._reader = ImageReader()
        self._before: dict[str, Report] = {}
        self._said: dict[str, tuple[Level, str]] = {}
        self.count = 0

    def save(self, path: Path) -> None:
        """Record into a file. Raise OSError."""
        path.touch()  # Rerun reports a file that it cannot write from a thread of its own
        self._recording.save(path, default_blueprint=blueprint())

    def spawn(self, memory: str) -> None:
        """Open the viewer's window."""
        self._recording.spawn(memory_limit=memory, default_blueprint=blueprint())

    def serve(self, memory: str) -> str:
        """Serve the viewer; its address."""
        url = self._recording.serve_grpc(default_blueprint=blueprint(), server_memory_limit=memory)
        rr.serve_web_viewer(open_browser=False, connect_to=url)
        return f"http://localhost:9090/?url={url}"

    def close(self) -> None:
        """Write what is buffered."""
        self._recording.flush()
        self._recording.disconnect()

    def image(self, message: Image | CompressedImage) -> None:
        """The camera's image; one that the node would drop is named in the text log."""
        try:
            frame = self._reader(message)
        except BadImage as error:
            text = rr.TextLog(f"image: {error}", level=rr.TextLogLevel.WARN)
            self._log("diagnostics/text", message.header, text)
            return
        picture = rr.Image(frame.rgb).compress(jpeg_quality=90)
        self._log("camera/image", message.header, picture)

    def labels(self, message: String) -> None:
        """Names and colours of the classes, ~/labels; kept for all stamps."""
        content = json.loads(message.data)
        entries = [(c["id"], c["name"], c["color"]) for c in content["classes"]]
        context = rr.AnnotationContext([*entries, (content["unlabelled"], "unlabelled", [0, 0, 0])])
        self._recording.log("camera", context, static=True)

    def classes(self, message: Image) -> None:
        """The mask, ~/semantic."""
        mask = rr.SegmentationImage(_rows(message, np.uint8), opacity=OPACITY)
        self._answer("camera/image/classes", message.header, mask)

    def depth(self, message: Image) -> None:
        """Metric depth, ~/depth. NaN and +Inf are 0, which Rerun leaves out."""
        depth_m = _rows(message, np.float32)
        known = np.where(np.isfinite(depth_m), depth_m, 0.0)
        shown = rr.DepthImage(
            known, meter=1.0, depth_range=(0.0, self._max_depth_m), colormap="turbo"
        )
        self._answer("depth", message.header, shown)

    def inverse_depth(self, message: Image) -> None:
        """Relative inverse depth, ~/inverse_depth, without a unit."""
        values = _rows(message, np.float32)
        self._answer("depth", message.header, rr.Tensor(values, dim_names=("height", "width")))

    def points(self, message: PointCloud2) -> None:
        """Valid points of ~/points with their colours, in the camera's optical frame."""
        positions, colors = valid_points(message)
        step = -(-len(positions) // MAX_POINTS) or 1
        cloud = rr.Points3D(
            positions[::step], colors=colors[::step], radii=rr.Radius.ui_points(1.5)
        )
        self._answer("world/points", message.header, cloud)

    def diagnostics(self, message: DiagnosticArray) -> str:
        """Log rates, latency and changes of level or cause; return the topic of the camera."""
        topic = ""
        for report in reports_of(message, self._node):
            name = report.name.partition(": ")[2]
            for path, key in SCALARS.items():
                counted = path.startswith("rate/")
                before = self._before.get(report.name)
                value = per_second(before, report, key) if counted else report.number(key)
                if value is not None:
                    scalar = rr.Scalars(value)
                    self._answer(f"diagnostics/{path}/{name}", message.header, scalar)
            self._before[report.name] = report
            drops = sum(report.drops.values())
            self._answer(f"diagnostics/dropped/{name}", message.header, rr.Scalars(drops))
            said = (report.level, "" if report.level is Level.OK else report.message)
            if self._said.get(name) != said:
                self._said[name] = said
                text = f"{name}: {report.message}"
                log = rr.TextLog(text, level=LEVELS[report.level])
                self._answer("diagnostics/text", message.header, log)
            if not self._camera or name == self._camera:
                topic = topic or report.values.get("input topic", "")
        return topic

    def _answer(self, path: str, header: Header, entity: Any) -> None:
        self.count += 1
        self._log(path, header, entity)

    def _log(self, path: str, header: Header, entity: Any) -> None:
        seconds = 1e-9 * stamp_ns(header)
        self._recording.set_time(TIMELINE, timestamp=seconds)
        self._recording.log(path, entity)


def blueprint() -> rrb.Blueprint:
    """Return the layout of the viewer: image with classes, depth, points, diagnostics."""
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(
                rrb.Spatial2DView(origin="camera", name="Image and classes"),
                rrb.Spatial2DView(origin="depth", name="Depth"),
                rrb.Spatial3DView(
                    origin="world",
                    name="Points",
                    # An optical frame: x right, y down, z ahead (REP 103).
                    eye_controls=rrb.EyeControls3D(
                        position=(0.0, -4.0, -10.0),
                        look_target=(0.0, 0.0, 10.0),
                        eye_up=(0.0, -1.0, 0.0),
                    ),
                ),
            ),
            rrb.Horizontal(
                rrb.TimeSeriesView(origin="diagnostics/rate", name="Frames per second"),
                rrb.TimeSeriesView(origin="diagnostics/latency", name="Latency, ms"),
                rrb.TimeSeriesView(origin="diagnostics/dropped", name="Dropped frames"),
                rrb.TextLogView(origin="diagnostics/text", name="Diagnostics"),
            ),
            row_shares=[2, 1],
        ),
        collapse_panels=True,
    )


def valid_points(message: PointCloud2) -> tuple[np.ndarray, np.ndarray]:
    """Return positions [n, 3] float32 in metres and colours [n, 3] uint8 of the valid points.

    Raise KeyError if the cloud lacks one of the fields x, y, z and rgb.
    """
    offsets = {field.name: field.offset for field in message.fields}
    kinds = {"x": "<f4", "y": "<f4", "z": "<f4", "rgb": "<u4"}
    layout = np.dtype(
        {
            "names": list(kinds),
            "formats": list(kinds.values()),
            "offsets": [offsets[name] for name in kinds],
            "itemsize": message.point_step,
        }
    )
    raw = np.frombuffer(memoryview(message.data), layout)
    raw = raw[np.isfinite(raw["z"])]
    positions = np.stack([raw["x"], raw["y"], raw["z"]], -1)  # [n, 3]
    shifts = np.array([16, 8, 0], np.uint32)
    colors = (raw["rgb"][:, None] >> shifts & 0xFF).astype(np.uint8)  # [n, 3]
    return positions, colors


def _rows(message: Image, kind: type) -> np.ndarray:
    """Return the pixels of a single-channel output of the node: [H, W]."""
    return np.frombuffer(memoryview(message.data), kind).reshape(message.height, message.width)
