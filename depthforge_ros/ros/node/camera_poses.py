# SPDX-License-Identifier: Apache-2.0
"""Where a camera is in base_frame: by the parameters, or by tf if tf2_ros is installed."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from rclpy.time import Time

from depthforge_ros.occupancy import CameraPose
from depthforge_ros.ros.node.parameters import Parameters

PoseSource = Callable[[str], CameraPose]
"""Gives the pose of the camera with an optical frame; raises PoseError."""


class PoseError(Exception):
    """The camera's pose is not known; the text says why."""


def tf2_is_installed() -> bool:
    """Return whether tf2_ros can be imported."""
    try:
        import tf2_ros  # noqa: F401
    except ImportError:
        return False
    return True


class TfPoses:
    """Looks up the newest known pose of cameras in base_frame while tf is listened to.

    Raises ImportError if tf2_ros is not installed.
    """

    def __init__(self, node: Node, base_frame: str) -> None:
        from tf2_ros import Buffer, TransformListener

        self._base_frame = base_frame
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, node)

    def __call__(self, frame_id: str) -> CameraPose:
        """Return the pose of an optical frame. Raises PoseError."""
        try:
            found = self._buffer.lookup_transform(self._base_frame, frame_id.lstrip("/"), Time())
        except Exception as error:  # tf2's own exceptions, which share no other base
            reason = str(error).strip() or type(error).__name__
            raise PoseError(
                f"the camera's place is unknown: camera_height_m is 0, and tf: {reason}"
            ) from error
        place, turn = found.transform.translation, found.transform.rotation
        try:
            return CameraPose.from_transform(
                (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w)
            )
        except ValueError as error:
            raise PoseError(f"tf places {frame_id!r} in {self._base_frame!r}: {error}") from error

    def close(self) -> None:
        """Stop listening to tf."""
        self._listener.unregister()


def configured_pose(values: Parameters, camera: str) -> CameraPose | None:
    """Return the pose of a camera by the parameters, None if they give none.

    The camera_ parameters place the camera of a node that has one, camera_poses those with names.
    """
    named = values.poses().get(camera)
    if named is not None or values.camera_height_m == 0 or len(values.cameras) > 1:
        return named
    return CameraPose(
        height_m=values.camera_height_m,
        x_m=values.camera_x_m,
        y_m=values.camera_y_m,
        roll_rad=values.camera_roll_rad,
        pitch_rad=values.camera_pitch_rad,
        yaw_rad=values.camera_yaw_rad,
    )


def pose_source(values: Parameters, camera: str, tf: PoseSource | None) -> PoseSource | None:
    """Return the source of a camera's pose, parameters before tf; None if there is neither."""
    pose = configured_pose(values, camera)
    return tf if pose is None else lambda _: pose
