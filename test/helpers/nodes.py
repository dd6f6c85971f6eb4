# SPDX-License-Identifier: Apache-2.0
"""The node depthforge in a process of its own, and a bench that drives and hears it over DDS."""

from __future__ import annotations

import array
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from dds import Listener, environment
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from waits import WAIT_S

HEIGHT, WIDTH = 64, 96
SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
KEEP = QoSProfile(depth=50)
NO_TRANSITION = 255


class RunningNode:
    """A started process and what it has logged."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def handles(self) -> int:
        """Open files, sockets and pipes."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def end(self, number: int = signal.SIGINT) -> int:
        """Its exit status after the signal."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


def end_politely(process: subprocess.Popen) -> None:
    """A killed process leaves shared memory behind, which disturbs those that come after it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_node(
    domain: int,
    folder: Path,
    *remaps: str,
    program: Sequence[str] = ("-m", "depthforge_ros.ros.node"),
    **parameters: Any,
) -> Iterator:
    """One thread and eager fp32, so that its numbers are those of one thread in this process.

    program: what Python runs, the node or something around it. The images of `image_message` are
    years old.
    """
    values = {"threads": 1, "backend": "eager", "precision": "fp32"}
    values |= {"short_side_px": HEIGHT, "drop_stale": False, **parameters}
    command = [sys.executable, *program, "--ros-args"]
    for name, value in values.items():
        # A list of strings is written as YAML takes it.
        text = f"'{value}'" if isinstance(value, str) else str(value)
        text = text.lower() if isinstance(value, bool) else text
        command += ["-p", f"{name}:={text}"]
    for remap in remaps:
        command += ["-r", remap]
    log = folder / "node.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment(domain), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield RunningNode(process, log)
    finally:
        end_politely(process)


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """RGB [H, W, 3] uint8 with structure, another one for every index."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * (3 + index) + y) % 256, (y * 5 + index * 40) % 256, (x * y + index) % 256]
    return np.stack(planes, -1).astype(np.uint8)  # [H, W, 3]


class Bench(Listener):
    """A camera, a recorder and a driver of the lifecycle in one node."""

    def __init__(self, domain: int, node: str = "/depthforge") -> None:
        super().__init__(domain)
        self.name = node
        self.diagnostics: list[DiagnosticArray] = self.subscribe(
            DiagnosticArray, "/diagnostics", 10
        )
        self.image = self.node.create_publisher(Image, "/image", SENSOR)
        self.compressed = self.node.create_publisher(CompressedImage, "/image/compressed", SENSOR)
        self.camera_info = self.node.create_publisher(CameraInfo, "/camera_info", SENSOR)
        self.clients: dict[str, Client] = {}

    def status(self) -> DiagnosticStatus:
        return self.diagnostics[-1].status[0]

    def values(self) -> dict[str, str]:
        """Keys and values of the newest report, empty before the first."""
        reports = self.diagnostics[-1:]
        return {entry.key: entry.value for r in reports for entry in r.status[0].values}

    def wait_for(self, key: str, value: str) -> None:
        """Receive until the diagnostics say so."""
        self.spin_until(lambda: self.values().get(key) == value)

    def hear(self, name: str, kind: type = Image) -> list:
        """What the node publishes on ~/NAME from now on."""
        return self.subscribe(kind, f"{self.name}/{name}", KEEP)

    def send(self, message: Image | CompressedImage | CameraInfo) -> None:
        publishers = {Image: self.image, CompressedImage: self.compressed}
        publishers.get(type(message), self.camera_info).publish(message)

    def report_from_now(self) -> None:
        """Receive until the node has reported what it is now: a report may be on its way."""
        heard = len(self.diagnostics)
        self.spin_until(lambda: len(self.diagnostics) >= heard + 2)

    def exchange(
        self, message: Image | CompressedImage, heard: list, info: CameraInfo | None = None
    ) -> Any:
        """Send the message until its answer comes: the first ones meet no subscription yet.

        info: what is sent ahead of it each time, for outputs that need it.
        """
        stamp = message.header.stamp
        found: list = []

        def answered() -> bool:
            found.extend(answer for answer in heard if answer.header.stamp == stamp)
            if not found:
                if info is not None:
                    self.send(info)
                self.send(message)
                self.drain(lambda: any(answer.header.stamp == stamp for answer in heard))
            return bool(found)

        self.spin_until(answered)
        return found[0]

    def call(self, kind: type, service: str, request: Any) -> Any:
        """The answer of a service of the node.

        A client is kept: a server may answer a new one before it has met the client's reader, and
        that answer is lost. So a new one asks what changes nothing until there is an answer.
        """
        path = f"{self.name}/{service}"
        if path not in self.clients:
            self.clients[path] = self.node.create_client(kind, path)
            harmless = kind.Request()
            if kind is ChangeState:
                harmless.transition.id = NO_TRANSITION
            self.spin_until(lambda: self._answered(self.clients[path], harmless))
        future = self.clients[path].call_async(request)
        self.spin_until(future.done)
        return future.result()

    def _answered(self, client: Client, request: Any) -> bool:
        """Whether there is an answer within a moment."""
        if not client.service_is_ready():
            return False
        future = client.call_async(request)
        self.drain(future.done)
        return future.done()

    def change(self, transition: int) -> bool:
        """Request a lifecycle transition by id; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "change_state", request).success

    def state(self) -> str:
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def set(self, **parameters: Any) -> SetParametersResult:
        """The node's answer to the first of the values."""
        messages = [Parameter(n, value=v).to_parameter_msg() for n, v in parameters.items()]
        request = SetParameters.Request(parameters=messages)
        return self.call(SetParameters, "set_parameters", request).results[0]


def image_message(index: int, **changes: Any) -> Image:
    """rgb8 picture(index) with a stamp of its own. changes: fields to spoil."""
    rgb = picture(index)
    data = array.array("B", rgb.tobytes())
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH, data=data)
    message.header.frame_id = "front_optical"
    message.header.stamp.sec, message.header.stamp.nanosec = 1_700_000_000 + index, 7 * index + 1
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def camera_info_message(width: int = WIDTH, height: int = HEIGHT) -> CameraInfo:
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
    info.header.frame_id = "front_optical"
    info.k = [80.0, 0.0, 47.5, 0.0, 81.0, 31.5, 0.0, 0.0, 1.0]
    info.p = [80.0, 0.0, 47.5, 0.0, 0.0, 81.0, 31.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info
