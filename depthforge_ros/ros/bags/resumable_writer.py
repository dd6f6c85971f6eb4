# SPDX-License-Identifier: Apache-2.0
"""A bag that survives being killed: written file by file, put together at the end.

While OUT is in the making there is only OUT.partial:

    job.json        what is being done; a run that would do anything else is refused
    lock            held by the process that writes
    writing/        the file that is being written; thrown away after a kill
    OUT_0/, OUT_1/  finished files of the bag, each with its metadata and the progress so far
    bag/            the bag, put together from the finished files

Every step from one state to the next is one rename, so at any moment a message is either in a
finished file or not written at all, and OUT appears whole or not at all.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin

from depthforge_ros.file_lock import try_lock
from depthforge_ros.file_sync import sync
from depthforge_ros.ros.bags.topic import BagError, Topic

if TYPE_CHECKING:
    from depthforge_ros.ros.bags.mcap_storage import BagWriter
    from depthforge_ros.ros.bags.reader import Bag
    from depthforge_ros.ros.bags.video import VideoRecording

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}

# 9 is the latest, but releases before Kilted cannot read its QoS profiles.
_BAG_VERSION: Final = 8


class ExistsError(BagError):
    """The bag exists already.

    difference: how its job differs from ours; empty: not at all. losses: what of its source is not
    in it, in words.
    """

    def __init__(self, target: Path, difference: str, losses: Sequence[str] = ()) -> None:
        super().__init__(f"{target} exists already; it is not overwritten")
        self.difference, self.losses = difference, tuple(losses)


class TakenError(BagError):
    """Another process writes the bag at this moment."""


class SegmentedBag:
    """A bag open for writing, new or resumed after a kill. Use as a context manager.

    progress: counters of the caller, stored with every finished file and so exact after a kill.
    source: the bag that it is made from; it keeps that bag's custom data, ROS distribution and, in
    MCAP, attachments and metadata records.

    Any number of processes may try to write the same bag, on several machines if their file system
    locks files between them: one of them does.

    Raises ExistsError if the target exists, TakenError if another process writes it, and
    BagError where OUT.partial belongs to a different job; the text names the difference.
    """

    def __init__(
        self,
        target: Path,
        topics: Sequence[Topic],
        *,
        job: Mapping[str, Any],
        storage: str,
        segment_bytes: int,
        source: Bag | VideoRecording | None = None,
    ) -> None:
        self._source = source
        self.target = target
        self.partial = target.with_name(f"{target.name}.partial")
        self.progress: Counter[str] = Counter()
        self._topics = topics
        # Through JSON, so that what was read back compares equal.
        self._job = json.loads(json.dumps({**job, "storage": storage}))
        self._storage = storage
        self._segment_bytes = segment_bytes
        self._writer: BagWriter | None = None
        self._connections: dict[tuple[str, str], Connection] = {}
        self._written_bytes = 0
        self._finished: list[Path] = []
        self._lock: int | None = None

    def __enter__(self) -> SegmentedBag:
        while not self._locked():
            pass
        try:
            if self.target.exists():  # finished by another process between a look and the lock
                self._remove_partial()
                self._refuse_target()
            self._take_over()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Discard the open file unless `finish` or `pause` came first."""
        if self._writer is not None:
            _abandon(self._writer)
            self._writer = None
        self._release()

    def write(self, topic: str, kind: str, time_ns: int, raw: bytes) -> None:
        """Add a serialized message with its log time."""
        if self._writer is None:
            self._open_file()
        assert self._writer is not None
        self._writer.write(self._connections[topic, kind], time_ns, raw)
        self._written_bytes += len(raw)

    def commit(self) -> None:
        """Mark that `progress` agrees with what was written: here a new file may begin."""
        if self._written_bytes >= self._segment_bytes:
            self.pause()

    def pause(self) -> None:
        """Finish the open file, so that the next run goes on from here."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.set_custom_data("progress", json.dumps(self.progress))
        try:
            writer.close()
        except BaseException:
            _abandon(writer)
            raise
        for path in writer.path.iterdir():
            sync(path)
        sync(writer.path)
        finished = self.partial / writer.path.name
        writer.path.rename(finished)
        sync(self.partial)
        self._finished.append(finished)

    def finish(self, losses: Sequence[str] = ()) -> None:
        """Put the files together and let the target appear.

        losses: what of its source is not in it; see ExistsError.
        """
        if self._writer is None and not self._finished:
            self._open_file()  # a bag without messages is a bag too
        self.pause()
        bag = self.partial / "bag"
        bag.mkdir(exist_ok=True)
        parts = [self._metadata(part) for part in self._finished]
        for part, information in zip(self._finished, parts, strict=True):
            name = information["relative_file_paths"][0]
            if not (bag / name).exists():  # it does if a run was killed in this loop
                (part / name).rename(bag / name)
        metadata = bag / "metadata.yaml"
        custom = {"depthforge": json.dumps(self._job), "depthforge_losses": json.dumps(losses)}
        information = merged_metadata(parts)
        information["custom_data"] = {**self._kept_custom_data(), **custom}
        if self._source is not None and self._source.ros_distro:
            information["ros_distro"] = self._source.ros_distro
        merged = {"rosbag2_bagfile_information": information}
        metadata.write_text(yaml.safe_dump(merged, sort_keys=False), "utf-8")
        sync(metadata)
        sync(bag)
        if self.target.exists():
            raise BagError(f"{self.target} has appeared meanwhile; it is not overwritten")
        bag.rename(self.target)
        sync(self.target.parent)
        self._remove_partial()

    def _kept_custom_data(self) -> dict[str, str]:
        """Return the source's custom data; that of an earlier annotation under another name."""
        kept = {} if self._source is None else self._source.custom_data
        ours = ("depthforge", "depthforge_losses", "progress")
        return {f"{name}_before" if name in ours else name: text for name, text in kept.items()}

    def _refuse_target(self) -> None:
        """Raise ExistsError if there is a target."""
        if not self.target.exists():
            return
        losses: list[str] = []
        try:
            custom = self._metadata(self.target)["custom_data"]
            difference = self._difference(json.loads(custom["depthforge"]))
            losses = json.loads(custom.get("depthforge_losses", "[]"))
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            difference = "it does not record how it was made"
        raise ExistsError(self.target, difference, losses)

    def _locked(self) -> bool:
        """Lock OUT.partial. Return False if another process removed it meanwhile.

        Raises ExistsError, and TakenError if another process holds the lock.
        """
        self._refuse_target()
        path = self.partial / "lock"
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_CREAT | os.O_RDWR)
            if not try_lock(self._lock):
                raise TakenError(f"{self.partial} is being written by another process")
            # The lock of a removed file excludes no one.
            if os.path.samestat(os.fstat(self._lock), os.stat(path)):
                return True
        except (FileNotFoundError, FileExistsError):  # mkdir meets a folder that is being removed
            if self.partial.exists() and not self.partial.is_dir():
                raise
        except BaseException:
            self._release()
            raise
        self._release()
        return False

    def _remove_partial(self) -> None:
        """Remove OUT.partial after a rename, so that no process resumes what is half removed."""
        gone = self.partial.with_name(f"{self.partial.name}.removed")
        while True:
            shutil.rmtree(gone, ignore_errors=True)  # of a run that was killed right here
            try:
                self.partial.rename(gone)
                break
            except OSError as error:  # another process has renamed its own meanwhile
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        shutil.rmtree(gone, ignore_errors=True)  # another process may remove it too

    def _take_over(self) -> None:
        """Check that the job of OUT.partial is ours, and count what it has."""
        job_file, fresh = self.partial / "job.json", self.partial / "job.json.new"
        if job_file.exists():
            self._compare(json.loads(job_file.read_text("utf-8")))
        elif unknown := sorted(
            {path.name for path in self.partial.iterdir()} - {"lock", fresh.name}
        ):  # a run that was killed as it began leaves those two
            raise BagError(f"{self.partial} holds {', '.join(unknown)} but no job; remove it")
        else:
            fresh.write_text(json.dumps(self._job, indent=1), "utf-8")
            sync(fresh)
            fresh.rename(job_file)
        shutil.rmtree(self.partial / "writing", ignore_errors=True)
        while (part := self._part(len(self._finished))).is_dir():
            self._finished.append(part)
        for part in self._finished:
            name = self._metadata(part)["relative_file_paths"][0]
            if not ((part / name).exists() or (self.partial / "bag" / name).exists()):
                raise BagError(f"{part} has lost its {name}; remove {self.partial} to start over")
        if self._finished:
            custom = self._metadata(self._finished[-1])["custom_data"]
            self.progress.update(json.loads(custom["progress"]))

    def _difference(self, started: Mapping[str, Any]) -> str:
        names = sorted(started.keys() | self._job.keys())
        return "; ".join(
            f"{name} was {started.get(name)!r} and is now {self._job.get(name)!r}"
            for name in names
            if started.get(name) != self._job.get(name)
        )

    def _compare(self, started: Mapping[str, Any]) -> None:
        difference = self._difference(started)
        if difference:
            raise BagError(
                f"{self.partial} was started with other settings: {difference}. Use those, or "
                "remove it to start over"
            )

    def _open_file(self) -> None:
        from depthforge_ros.ros.bags.mcap_storage import BagWriter  # needs the package mcap

        part = self._part(len(self._finished))
        writer = BagWriter(
            self.partial / "writing" / part.name,
            version=_BAG_VERSION,
            storage_plugin=STORAGES[self._storage],
        )
        writer.open()
        self._writer, self._written_bytes = writer, 0
        if self._source is not None and not self._finished:
            writer.keep(self._source.attachments(), self._source.metadata)
        writer.set_encodings({t.definition: t.encoding for t in self._topics if t.encoding})
        self._connections = {
            (topic.name, topic.kind): writer.add_connection(
                topic.name,
                topic.kind,
                msgdef=topic.definition,
                rihs01=topic.digest,
                offered_qos_profiles=topic.qos,
            )
            for topic in self._topics
        }

    def _part(self, index: int) -> Path:
        return self.partial / f"{self.target.name}_{index}"

    @staticmethod
    def _metadata(part: Path) -> dict[str, Any]:
        content = yaml.safe_load((part / "metadata.yaml").read_text("utf-8"))
        return content["rosbag2_bagfile_information"]

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def merged_metadata(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the rosbag2 information of one bag made of several files with the same topics."""
    filled = [part for part in parts if part["message_count"]] or parts
    starts_ns = [part["starting_time"]["nanoseconds_since_epoch"] for part in filled]
    ends_ns = [
        start + part["duration"]["nanoseconds"]
        for start, part in zip(starts_ns, filled, strict=True)
    ]
    topics = [dict(entry) for entry in parts[0]["topics_with_message_count"]]
    for index, topic in enumerate(topics):
        topic["message_count"] = sum(
            part["topics_with_message_count"][index]["message_count"] for part in parts
        )
    return {
        **parts[0],
        "relative_file_paths": [part["relative_file_paths"][0] for part in parts],
        "duration": {"nanoseconds": max(ends_ns) - min(starts_ns)},
        "starting_time": {"nanoseconds_since_epoch": min(starts_ns)},
        "message_count": sum(part["message_count"] for part in parts),
        "topics_with_message_count": topics,
        "files": [entry for part in parts for entry in part["files"]],
    }


def _abandon(writer: BagWriter) -> None:
    with suppress(Exception):  # the error that led here is the one to report
        writer.abort()
