# SPDX-License-Identifier: Apache-2.0
"""A bag with masks and depth beside the images of another bag.

Every message of the input is copied byte for byte with its log time. After each image come the
masks and depth that the node publishes for planners, with the image's header and log time. Read
`annotate_bag` first.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo
from tqdm import tqdm

from depthforge_ros.frame import DepthKind
from depthforge_ros.ros.bags.reader import (
    IMAGE_TYPES,
    BagError,
    bag_messages,
    bag_topics,
    frame_from_raw,
    open_bag,
    own_topic,
)
from depthforge_ros.ros.bags.resumable_writer import SegmentedBag
from depthforge_ros.ros.calibration import Calibration
from depthforge_ros.ros.images import BadImage
from depthforge_ros.ros.messages import labels_message
from depthforge_ros.ros.metric import NO_LIMITS, CameraDepth, DepthLimits, planner_messages

if TYPE_CHECKING:  # torch takes seconds to load, and nothing here needs it by itself
    from std_msgs.msg import Header

    from depthforge_ros.frame import Frame
    from depthforge_ros.pipeline import Pipeline

IMAGE_TYPE = "sensor_msgs/msg/Image"
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
LABELS_TYPE = "std_msgs/msg/String"
MIB = 2**20
_IMAGE_WORDS = ("image", "compressed", "raw", "rect", "color", "mono")


@dataclass(frozen=True)
class Summary:
    """What a run did, the runs before it that it went on from included.

    without_depth: frames of a metric network without a fitting CameraInfo. without_metres: frames
    of a relative one with a camera height to which road or CameraInfo gave none. refused: images
    that could not become a frame, by cause. finished: OUT is there.
    """

    frames: int
    without_depth: int
    without_metres: int
    refused: Mapping[str, int]
    messages: int
    finished: bool

    def describe(self) -> str:
        """The counts in a line, and lines for what is missing."""
        refused = ", ".join(f"{count} {cause}" for cause, count in self.refused.items()) or "none"
        lines = [
            f"{self.messages} messages copied, {self.frames} images annotated, refused: {refused}"
        ]
        if self.without_depth:
            lines.append(
                f"{self.without_depth} images have no depth: metres need a calibrated camera_info "
                "beside the image topic, of the image's size and frame_id"
            )
        if self.without_metres:
            lines.append(
                f"{self.without_metres} images have no metres: too little road, no plane, or no "
                "calibrated camera_info of the image's size and frame_id"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Camera:
    """One annotated image topic: its type, where its CameraInfo is, and where results go."""

    topic: str
    kind: str
    info_topic: str | None
    prefix: str

    def outputs(self, depth_kind: DepthKind, has_metres: bool) -> dict[str, str]:
        """Return name and type of the topics that this camera adds to the bag."""
        names = ["semantic", "confidence"]
        names += ["depth"] if has_metres else []
        names += ["inverse_depth"] if depth_kind is DepthKind.RELATIVE else []
        types = dict.fromkeys(names, IMAGE_TYPE)
        return types if self.info_topic is None else {**types, "camera_info": INFO_TYPE}


def annotate_bag(
    source: Path,
    target: Path,
    pipeline: Pipeline,
    *,
    topics: Sequence[str] = (),
    job: Mapping[str, Any] | None = None,
    namespace: str = "/depthforge",
    camera_height_m: float = 0.0,
    limits: DepthLimits = NO_LIMITS,
    storage: str = "mcap",
    segment_bytes: int = 512 * MIB,
    progress: bool = True,
) -> Summary:
    """Write `target`: the messages of `source` and what the pipeline sees in its images.

    topics: image topics; none: the only one there is. job: what else fixes the result (weights,
    backend); a run that was stopped or killed is only resumed where all of it is the same.
    camera_height_m: of all cameras above the road, for metres of a relative network; 0: no such
    metres. A resumed run learns the cameras' pitch anew.
    segment_bytes: size of one file of the new bag, and so the most that a kill undoes. SIGINT and
    SIGTERM finish the file and end the run unfinished. progress: whether a bar shows it.

    Raises BagError, ValueError where camera_height_m does not fit, and OSError or sqlite3.Error
    where writing fails; then there is no target.
    """
    variant, settings = pipeline.engine.variant, pipeline.settings
    kind = variant.depth_head.kind
    if camera_height_m and kind is DepthKind.METRIC:
        raise ValueError(f"camera_height_m is {camera_height_m}; {variant.name} is metric without")
    with open_bag(source) as reader:
        cameras = find_cameras(reader, topics, namespace)
        labels_topic = f"{namespace}/labels"
        depths = {camera.topic: CameraDepth(variant, camera_height_m) for camera in cameras}
        outputs = {c.topic: c.outputs(kind, depths[c.topic].has_metres) for c in cameras}
        added = [own_topic(labels_topic, LABELS_TYPE, latched=True)]
        for camera in cameras:
            types = outputs[camera.topic].items()
            added += [own_topic(f"{camera.prefix}/{name}", kind) for name, kind in types]
        recorded = bag_topics(reader)
        taken = {topic.name for topic in recorded} & {topic.name for topic in added}
        if taken:
            raise BagError(
                f"bag {source} already has {', '.join(sorted(taken))}; choose another --namespace"
            )
        whole_job = {
            "bag": fingerprint(source),
            "topics": [camera.topic for camera in cameras],
            "namespace": namespace,
            "variant": variant.name,
            "mode": settings.mode.value,
            "short_side_px": settings.short_side_px,
            "confidence_threshold": settings.confidence_threshold,
            "full_size": settings.full_size,
            "camera_height_m": camera_height_m,
            "max_depth_m": limits.max_depth_m,
            "depth_confidence_threshold": limits.min_confidence,
            **(job or {}),
        }
        bag = SegmentedBag(
            target,
            [*recorded, *added],
            job=whole_job,
            storage=storage,
            segment_bytes=segment_bytes,
        )
        images = sum(t.count for t in recorded if t.name in {camera.topic for camera in cameras})
        with (
            bag,
            _stop_requests() as stop,
            tqdm(total=images, unit="image", disable=not progress) as bar,
        ):
            bar.update(bag.progress["images"])
            writer = _Annotator(bag, pipeline, cameras, depths, outputs, limits, bar)
            writer.look_ahead(reader)
            for position, (connection, time_ns, raw) in enumerate(bag_messages(reader)):
                if position < bag.progress["messages"]:
                    writer.remember(connection.topic, connection.msgtype, raw)
                    continue
                if stop:
                    bag.pause()
                    return _summary(bag, finished=False)
                if position == 0:
                    labels = serialize_message(labels_message(variant.labels))
                    bag.write(labels_topic, LABELS_TYPE, time_ns, labels)
                writer.copy(connection.topic, connection.msgtype, time_ns, raw)
                bag.progress["messages"] += 1
                bag.commit()
            bag.finish()
            return _summary(bag, finished=True)


class _Annotator:
    """Copies messages and writes what the pipeline sees in images, with the latest CameraInfo."""

    def __init__(
        self,
        bag: SegmentedBag,
        pipeline: Pipeline,
        cameras: Sequence[Camera],
        depths: Mapping[str, CameraDepth],
        outputs: Mapping[str, Mapping[str, str]],
        limits: DepthLimits,
        bar: tqdm,
    ) -> None:
        self._bag = bag
        self._pipeline = pipeline
        self._cameras = {camera.topic: camera for camera in cameras}
        self._bar = bar
        self._depths, self._outputs, self._limits = depths, outputs, limits
        self._infos: dict[str, list[CameraDepth]] = {}
        for camera in cameras:
            if camera.info_topic is not None:
                self._infos.setdefault(camera.info_topic, []).append(depths[camera.topic])

    def look_ahead(self, reader: Reader) -> None:
        """Learn the first CameraInfo of each camera: images may be recorded before it."""
        for topic in self._infos:
            _, _, raw = next(bag_messages(reader, [topic]), (None, 0, b""))
            self.remember(topic, INFO_TYPE, raw)

    def remember(self, topic: str, kind: str, raw: bytes) -> None:
        """Learn from a message without writing anything."""
        if kind == INFO_TYPE and topic in self._infos and raw:
            try:
                info = deserialize_message(raw, CameraInfo)
                for depth in self._infos[topic]:
                    depth.add(info)
            except RuntimeError as error:
                self._bar.write(f"{topic}: unreadable CameraInfo: {error}", file=sys.stderr)

    def copy(self, topic: str, kind: str, time_ns: int, raw: bytes) -> None:
        """Write a message, and the results where it is an image to annotate."""
        self._bag.write(topic, kind, time_ns, raw)
        self.remember(topic, kind, raw)
        camera = self._cameras.get(topic)
        if camera is None:
            return
        progress = self._bag.progress
        try:
            frame, header = frame_from_raw(kind, raw)
            frame, calibration, _ = self._depths[topic].calibrate(frame)
            self._write(camera, header, frame, calibration, time_ns)
            progress["frames"] += 1
        except BadImage as error:
            progress[f"refused {error.cause}"] += 1
            text = f"{topic}: image {progress['images']} logged at {time_ns} ns: {error.cause}"
            self._bar.write(f"{text}: {error}", file=sys.stderr)
        progress["images"] += 1
        self._bar.update()

    def _write(
        self,
        camera: Camera,
        header: Header,
        frame: Frame,
        calibration: Calibration | None,
        time_ns: int,
    ) -> None:
        """Infer a frame and write the results, those that the node publishes for planners."""
        pipeline, depths = self._pipeline, self._depths[camera.topic]
        seen = pipeline(frame)
        depth = depths(frame, seen, calibration, self._limits, pipeline.settings)
        if seen.depth is None:
            self._bag.progress["without depth"] += 1
        if depths.by_ground and depth.metres is None:
            self._bag.progress["without metres"] += 1
        types = self._outputs[camera.topic]
        for name, message in planner_messages(types, header, seen, depth, calibration).items():
            raw = serialize_message(message)
            self._bag.write(f"{camera.prefix}/{name}", types[name], time_ns, raw)


def find_cameras(reader: Reader, topics: Sequence[str], namespace: str) -> list[Camera]:
    """The cameras of the image topics, or of the only one where none are named. Raises BagError."""
    kinds = {c.topic: c.msgtype for c in reader.connections}
    images = sorted(topic for topic, kind in kinds.items() if kind in IMAGE_TYPES)
    known = f"image topics of {reader.path}: {', '.join(images) or 'none'}"
    unknown = [topic for topic in topics if topic not in images]
    if unknown:
        raise BagError(f"no image topic {', '.join(unknown)}; {known}")
    if not topics and len(images) != 1:
        raise BagError(f"choose with --topic; {known}")
    chosen = list(dict.fromkeys(topics)) or images
    names = [camera_name(topic) for topic in chosen]
    if len(set(names)) < len(names):
        names = [topic.strip("/").replace("/", "_") for topic in chosen]
    cameras = []
    for topic, name in zip(chosen, names, strict=True):
        base = topic.removesuffix("/compressed").rpartition("/")[0]
        info = f"{base}/camera_info"
        prefix = namespace if len(chosen) == 1 else f"{namespace}/{name}"
        has_info = kinds.get(info) == INFO_TYPE
        cameras.append(Camera(topic, kinds[topic], info if has_info else None, prefix))
    return cameras


def camera_name(topic: str) -> str:
    """The name of a camera by its image topic: `front` for /front/image_raw/compressed."""
    parts = topic.strip("/").split("/")
    while len(parts) > 1 and parts[-1].split("_")[0] in _IMAGE_WORDS:
        parts.pop()
    return parts[-1]


def fingerprint(source: Path) -> str:
    """What tells a bag from another wherever it lies: names, sizes, heads and tails of its files.

    Hashing everything would take as long as reading the bag.
    """
    digest = hashlib.sha256()
    for path in sorted(source.iterdir()) if source.is_dir() else [source]:
        if path.is_file():
            with path.open("rb") as file:
                size = path.stat().st_size
                digest.update(f"{path.name} {size}\n".encode())
                digest.update(file.read(MIB))
                file.seek(max(size - MIB, 0))
                digest.update(file.read(MIB))
    return digest.hexdigest()[:16]


def _summary(bag: SegmentedBag, *, finished: bool) -> Summary:
    refused = {
        name.removeprefix("refused "): count
        for name, count in bag.progress.items()
        if name.startswith("refused ")
    }
    return Summary(
        frames=bag.progress["frames"],
        without_depth=bag.progress["without depth"],
        without_metres=bag.progress["without metres"],
        refused=refused,
        messages=bag.progress["messages"],
        finished=finished,
    )


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append themselves to; a second one ends the process."""
    requests: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        requests.append(number)
        signal.signal(number, signal.SIG_DFL)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
