# SPDX-License-Identifier: Apache-2.0
"""Writes a bag with masks and depth beside the images of another bag, or of a video.

Every message of the input is copied byte for byte with its log time. After each image come the
masks and depth that the node publishes for planners, with the image's header and log time. Read
`annotate_bag` first.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo
from tqdm import tqdm

from depthforge_ros.frame import DepthKind
from depthforge_ros.interrupt import requests_to_end
from depthforge_ros.ros.bags.calibration_file import read_camera_info
from depthforge_ros.ros.bags.cameras import INFO_TYPE, Camera, find_cameras
from depthforge_ros.ros.bags.layout import is_video
from depthforge_ros.ros.bags.reader import IMAGE_TYPES, Bag, frame_from_raw, open_bag
from depthforge_ros.ros.bags.resumable_writer import SegmentedBag
from depthforge_ros.ros.bags.topic import BagError, own_topic
from depthforge_ros.ros.bags.video import VideoRecording, open_video
from depthforge_ros.ros.calibration import Calibration
from depthforge_ros.ros.images import BadImage, ImageReader
from depthforge_ros.ros.messages import labels_message
from depthforge_ros.ros.metric import NO_LIMITS, CameraDepth, DepthLimits, planner_messages

if TYPE_CHECKING:  # torch takes seconds to load, and nothing here needs it by itself
    from std_msgs.msg import Header

    from depthforge_ros.frame import Frame
    from depthforge_ros.pipeline import Pipeline

LABELS_TYPE = "std_msgs/msg/String"
MIB = 2**20
_REFUSED, _NO_DEPTH, _NO_METRES = "refused ", "without depth ", "without metres "


@dataclass(frozen=True)
class Summary:
    """Counts of a run, including the runs that it resumed.

    without_depth: frames of a metric network without calibration, by reason. without_metres: frames
    of a relative one with a camera height to which road or calibration gave none, by reason.
    refused: images that could not become a frame, by cause. finished: OUT exists. losses: what of
    the input could not be read or was left out, in words. remarks: what else to know of it.
    """

    frames: int
    without_depth: Mapping[str, int]
    without_metres: Mapping[str, int]
    refused: Mapping[str, int]
    messages: int
    finished: bool
    losses: Sequence[str] = ()
    remarks: Sequence[str] = ()

    @property
    def complete(self) -> bool:
        """Whether every message was read and every image annotated."""
        return self.finished and not self.losses and not self.refused

    def describe(self) -> str:
        """Return the counts in a line, and lines for what is missing."""
        refused = ", ".join(f"{count} {cause}" for cause, count in self.refused.items()) or "none"
        lines = [
            f"{self.messages} messages copied, {self.frames} images annotated, refused: {refused}"
        ]
        for what, counts in (("depth", self.without_depth), ("metres", self.without_metres)):
            lines += [f"{n} images have no {what}: {reason}" for reason, n in counts.items()]
        return "\n".join(lines)


def annotate_bag(
    source: Path,
    target: Path,
    pipeline: Pipeline,
    *,
    topics: Sequence[str] = (),
    info_topics: Sequence[str] = (),
    calibration: Path | None = None,
    job: Mapping[str, Any] | None = None,
    namespace: str = "/depthforge",
    camera_height_m: float = 0.0,
    camera_pitch_rad: float = 0.0,
    rectified: str = "auto",
    limits: DepthLimits = NO_LIMITS,
    storage: str = "mcap",
    segment_bytes: int = 512 * MIB,
    progress: bool = True,
) -> Summary:
    """Write `target`: the messages of `source` and the pipeline's predictions of its images.

    topics: image topics; none: the only one there is. info_topics: see find_cameras. calibration:
    a file that takes the place of CameraInfo. job: what else fixes the result (weights, backend);
    a run that was stopped or killed is only resumed if all of it is the same. camera_height_m,
    camera_pitch_rad, rectified, limits: as the node's parameters. A resumed run learns a pitch that
    is not given anew.
    segment_bytes: size of one file of the new bag, and so the most that a kill undoes. SIGINT and
    SIGTERM finish the file and end the run unfinished; they end a webcam's recording. progress:
    whether a bar shows it.

    Raises BagError, ValueError if camera_height_m or the calibration does not fit, and OSError or
    sqlite3.Error if writing fails; then there is no target.
    """
    variant, settings = pipeline.engine.variant, pipeline.settings
    kind = variant.depth_head.kind
    if camera_height_m and kind is DepthKind.METRIC:
        raise ValueError(f"camera_height_m is {camera_height_m}; {variant.name} is metric without")
    info = None if calibration is None else read_camera_info(calibration)
    with _opened(source, info) as recording:
        cameras = find_cameras(source, recording.topics, topics, namespace, info_topics)
        lanes = {}
        for camera in cameras:
            depth = CameraDepth(
                variant,
                camera_height_m,
                camera_pitch_rad,
                image_topic=camera.topic,
                info_topic=camera.info_topic or "camera_info",
            )
            lanes[camera.topic] = _Lane(camera, depth, info, rectified)
        labels_topic = f"{namespace}/labels"
        added = [own_topic(labels_topic, LABELS_TYPE, latched=True)]
        for lane in lanes.values():
            types = lane.outputs(kind).items()
            added += [own_topic(f"{lane.camera.prefix}/{name}", kind) for name, kind in types]
        taken = {topic.name for topic in recording.topics} & {topic.name for topic in added}
        if taken:
            raise BagError(
                f"bag {source} already has {', '.join(sorted(taken))}; choose another --namespace"
            )
        whole_job = {
            "bag": fingerprint(source),
            "topics": [camera.topic for camera in cameras],
            "camera_info": [camera.info_topic for camera in cameras],
            "calibration": None if calibration is None else fingerprint(calibration),
            "namespace": namespace,
            "variant": variant.name,
            "mode": settings.mode.value,
            "short_side_px": settings.short_side_px,
            "confidence_threshold": settings.confidence_threshold,
            "full_size": settings.full_size,
            "camera_height_m": camera_height_m,
            "camera_pitch_rad": camera_pitch_rad,
            "rectified": rectified,
            "max_depth_m": limits.max_depth_m,
            "depth_confidence_threshold": limits.min_confidence,
            **(job or {}),
        }
        if isinstance(recording, VideoRecording):
            whole_job["start_ns"] = recording.start_ns
        bag = SegmentedBag(
            target,
            [*recording.topics, *added],
            job=whole_job,
            storage=storage,
            segment_bytes=segment_bytes,
            source=recording,
        )
        images = sum(topic.count for topic in recording.topics if topic.name in lanes)
        live = getattr(recording, "live", False)
        bar_total = images or getattr(recording, "count", 0) or None
        with (
            bag,
            requests_to_end() as stop,
            tqdm(total=bar_total, unit="image", disable=not progress) as bar,
        ):
            bar.update(bag.progress["images"])
            for text in recording.remarks:
                bar.write(text, file=sys.stderr)
            writer = _Annotator(bag, pipeline, lanes, limits, bar)
            if not live and not isinstance(recording, VideoRecording):
                writer.look_ahead(recording)
            for position, (topic, time_ns, raw) in enumerate(recording.messages()):
                if position < bag.progress["messages"]:
                    writer.remember(topic.name, topic.kind, raw)
                    continue
                if stop and live:
                    break
                if stop:
                    bag.pause()
                    return _summary(bag, recording, finished=False)
                if not bag.progress["messages"]:
                    # As latched as it gets in a bag: before everything else.
                    labels = serialize_message(labels_message(variant.labels))
                    bag.write(labels_topic, LABELS_TYPE, time_ns, labels)
                writer.copy(topic.name, topic.kind, time_ns, raw)
                bag.progress["messages"] += 1
                bag.commit()
            losses = [*recording.losses(), *_unkept(recording, storage)]
            summary = _summary(bag, recording, finished=True, losses=losses)
            refused = [f"{count} images: {cause}" for cause, count in summary.refused.items()]
            bag.finish([*losses, *refused])
            return summary


@contextmanager
def _opened(source: Path, info: CameraInfo | None) -> Iterator[Bag | VideoRecording]:
    """The bag or the video open for reading. Raises BagError."""
    if is_video(source):
        with open_video(source) as capture:
            yield VideoRecording(capture, info)
    else:
        with open_bag(source) as bag:
            yield bag


class _Lane:
    """One camera with its calibration and depth. info: of a file, in place of the bag's."""

    def __init__(
        self, camera: Camera, depth: CameraDepth, info: CameraInfo | None, rectified: str
    ) -> None:
        self.camera, self.depth, self._rectified = camera, depth, rectified
        self.types: dict[str, str] = {}
        self._info = info

    def outputs(self, kind: DepthKind) -> dict[str, str]:
        """Return name and type of the topics that this camera adds to the bag."""
        has_info = self._info is not None or self.camera.info_topic is not None
        self.types = self.camera.outputs(kind, self.depth.has_metres, has_info)
        return self.types

    def calibrate(self, frame: Frame) -> tuple[Frame, Calibration | None, str]:
        """Return the frame with its focal length and calibration, or why there is none."""
        if self._info is not None and self._info.header.frame_id != frame.frame_id:
            self._info = copy.deepcopy(self._info)
            self._info.header.frame_id = frame.frame_id
        if self._info is not None:
            self.depth.add(self._info)
        return self.depth.calibrate(frame, self._rectified)

    def learn(self, info: CameraInfo) -> None:
        """Keep a CameraInfo of the bag, unless a file takes its place."""
        if self._info is None:
            self.depth.add(info)


class _Annotator:
    """Copies messages and writes the predictions of images, with the latest CameraInfo."""

    def __init__(
        self,
        bag: SegmentedBag,
        pipeline: Pipeline,
        lanes: Mapping[str, _Lane],
        limits: DepthLimits,
        bar: tqdm,
    ) -> None:
        self._bag, self._pipeline, self._lanes = bag, pipeline, lanes
        self._limits, self._bar = limits, bar
        self._readers = {topic: ImageReader() for topic in lanes}
        self._infos: dict[str, list[_Lane]] = {}
        for lane in lanes.values():
            if lane.camera.info_topic is not None:
                self._infos.setdefault(lane.camera.info_topic, []).append(lane)

    def look_ahead(self, recording: Bag) -> None:
        """Learn the first CameraInfo of each camera: images may be recorded before it."""
        for topic in self._infos:
            for _, _, raw in islice(recording.messages([topic]), 1):
                self.remember(topic, INFO_TYPE, raw)

    def remember(self, topic: str, kind: str, raw: bytes) -> None:
        """Learn from a message without writing anything."""
        if kind == INFO_TYPE and topic in self._infos:
            try:
                info = deserialize_message(raw, CameraInfo)
            except RuntimeError as error:
                self._bar.write(f"{topic}: unreadable CameraInfo: {error}", file=sys.stderr)
                return
            for lane in self._infos[topic]:
                lane.learn(info)

    def copy(self, topic: str, kind: str, time_ns: int, raw: bytes) -> None:
        """Write a message, and the results if it is an image to annotate."""
        self._bag.write(topic, kind, time_ns, raw)
        self.remember(topic, kind, raw)
        lane = self._lanes.get(topic)
        if lane is None or kind not in IMAGE_TYPES:
            return
        progress = self._bag.progress
        try:
            frame, header = frame_from_raw(kind, raw, self._readers[topic])
            self._write(lane, header, frame, time_ns)
            progress["frames"] += 1
        except BadImage as error:
            progress[f"{_REFUSED}{error.cause}"] += 1
            text = f"{topic}: image {progress['images']} logged at {time_ns} ns: {error.cause}"
            self._bar.write(f"{text}: {error}", file=sys.stderr)
        progress["images"] += 1
        self._bar.update()

    def _write(self, lane: _Lane, header: Header, frame: Frame, time_ns: int) -> None:
        """Infer a frame and write the results, those that the node publishes for planners."""
        pipeline = self._pipeline
        frame, calibration, reason = lane.calibrate(frame)
        seen = pipeline(frame)
        depth = lane.depth(frame, seen, calibration, self._limits, pipeline.settings)
        if seen.depth is None:
            self._bag.progress[f"{_NO_DEPTH}{reason}"] += 1
        if lane.depth.by_ground and depth.metres is None:
            self._bag.progress[f"{_NO_METRES}{reason or 'too little road, or no plane'}"] += 1
        results = planner_messages(lane.types, header, seen, depth, calibration)
        for name, message in results.items():
            raw = serialize_message(message)
            self._bag.write(f"{lane.camera.prefix}/{name}", lane.types[name], time_ns, raw)


def fingerprint(source: Path) -> str:
    """Return a fingerprint of a bag that does not depend on its path.

    It covers names, sizes, heads and tails of its files. Hashing everything would take as long as
    reading the bag. Empty for a device.
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


def _unkept(recording: Bag | VideoRecording, storage: str) -> list[str]:
    """Return what the format of the target has no place for, in words."""
    if storage == "mcap":
        return []
    counts = {
        "attachments": sum(1 for _ in recording.attachments()),
        "metadata records": len(recording.metadata),
    }
    return [
        f"{count} {name} left out: {storage} has none" for name, count in counts.items() if count
    ]


def _summary(
    bag: SegmentedBag,
    recording: Bag | VideoRecording,
    *,
    finished: bool,
    losses: Sequence[str] = (),
) -> Summary:
    def counts(prefix: str) -> dict[str, int]:
        counted = bag.progress.items()
        return {key.removeprefix(prefix): n for key, n in counted if key.startswith(prefix)}

    return Summary(
        frames=bag.progress["frames"],
        without_depth=counts(_NO_DEPTH),
        without_metres=counts(_NO_METRES),
        refused=counts(_REFUSED),
        messages=bag.progress["messages"],
        finished=finished,
        losses=losses,
        remarks=recording.remarks,
    )
