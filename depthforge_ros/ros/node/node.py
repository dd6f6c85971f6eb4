# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `depthforge`: images in; masks, depth and diagnostics out.

The executor's thread runs short callbacks, inference has threads of its own (inference.py), and a
heartbeat reports once a second, also while configure reads weights.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo

from depthforge_ros.ros.node.camera_names import MESSAGES, Topics, input_topics
from depthforge_ros.ros.node.camera_poses import TfPoses, configured_pose, tf2_is_installed
from depthforge_ros.ros.node.diagnostics import EngineReport, NodeStatus
from depthforge_ros.ros.node.heartbeat import Heartbeat, Snapshot
from depthforge_ros.ros.node.inference import Inference, load_pipeline
from depthforge_ros.ros.node.parameter_node import ParameterNode
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.statistics import Statistics
from depthforge_ros.ros.node.worker import LOADING_THREAD, AbandonedError, run_abandonable

if TYPE_CHECKING:
    from depthforge_ros.engine import Journal

RCLError = rclpy_implementation.RCLError

JOIN_TIMEOUT_S = 5.0
LOADING_TIMEOUT_S = 1.0

LABEL_PARAMETERS = ("palette", "confidence_threshold")
"""Parameters that ~/labels, ~/legend and ~/label_info report."""


class DepthForgeNode(ParameterNode):
    """Lifecycle: unconfigured -configure-> inactive (network loaded) -activate-> active."""

    def __init__(self, keep_going: Callable[[], bool] = rclpy.ok) -> None:
        """keep_going: whether the process goes on; asked while configure loads.

        Raises ValueError, or rclpy's InvalidParameter exceptions, for a bad start value.
        """
        self._status = NodeStatus("unconfigured")
        self._inference: Inference | None = None
        super().__init__("depthforge")
        self._survive_wrong_transitions()
        self._keep_going = keep_going
        self._statistics = {camera: Statistics() for camera in self.values.cameras}
        self._topics: dict[str, Topics] = {}
        self._journal: Journal | None = None
        self._inputs: list = []
        self._tf: TfPoses | None = None
        self._heartbeat = Heartbeat(self, self._snapshot)
        if self.values.autostart:
            # A timer, so that it runs in the executor like every other transition.
            self._start_timer = self.create_timer(0.0, self._autostart)

    def _survive_wrong_transitions(self) -> None:
        """Answer a request for a transition that the state does not have with success = false.

        rclpy raises into the executor instead, which ends the process and leaves the client
        without an answer. There is no public way to the service.
        """
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        change_state = service.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RCLError as error:
                self.get_logger().error(f"refused in state {self._status.state}: {error}")
                response.success = False
                return response

        service.callback = answer

    def _autostart(self) -> None:
        self.destroy_timer(self._start_timer)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network and create the publishers.

        SUCCESS: inactive. FAILURE: the variant, the weights or the device are missing or invalid;
        the node stays unconfigured, the reason is logged and in /diagnostics. ERROR: never.
        """
        values = self.values
        self._journal = None
        self._status = NodeStatus(
            "configuring",
            variant=values.variant,
            checkpoint=values.checkpoint,
            device=values.device,
        )
        self._name_cameras(values)
        try:
            pipeline = run_abandonable(
                lambda: load_pipeline(values, self._follow, self._keep_going), self._keep_going
            )
            self._tf = self._listen_to_tf(values)
            self._inference = Inference(
                self,
                pipeline,
                self._statistics,
                lambda: self.values,
                topics=self._topics,
                tf=self._tf,
            )
        except AbandonedError:
            return self._configure_failed("configure was given up because the process ends")
        except (ValueError, OSError) as error:
            return self._configure_failed(f"configure failed: {error}")
        except Exception as error:  # whatever a driver, a compiler or a file may raise
            self.get_logger().error(traceback.format_exc())
            return self._configure_failed(f"configure failed: {type(error).__name__}: {error}")
        engine = pipeline.engine
        self._status = replace(
            self._status,
            state="inactive",
            device=str(engine.device),
            backend=engine.backend,
            precision=engine.precision,
        )
        self.get_logger().info(
            f"configured {values.variant} ({engine.backend}, {engine.precision}, {engine.device})"
        )
        return super().on_configure(state)

    def _name_cameras(self, values: Parameters) -> None:
        """Resolve the inputs' topics, and keep the counters of cameras that were there before."""
        self._topics = {
            camera: input_topics(self, camera, values.image_transport) for camera in values.cameras
        }
        known = self._statistics
        self._statistics = {
            camera: known[camera] if camera in known else Statistics() for camera in values.cameras
        }

    def _listen_to_tf(self, values: Parameters) -> TfPoses | None:
        """Listen to tf where it may place a camera that the parameters do not."""
        placed = all(configured_pose(values, camera) for camera in values.cameras)
        if placed or not values.base_frame or not tf2_is_installed():
            return None
        return TfPoses(self, values.base_frame)

    def _follow(self, journal: Journal) -> None:
        """Report what becomes of the engine from now on."""
        self._journal = journal

    def _configure_failed(self, reason: str) -> TransitionCallbackReturn:
        self.get_logger().error(reason)
        self._close_tf()
        self._status = replace(self._status, state="unconfigured", failure=reason)
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and publish.

        SUCCESS: active. FAILURE: never. ERROR: a subscription cannot be created, for example
        because of a QoS override; everything is released and the node is unconfigured, with the
        reason logged and in /diagnostics.
        """
        assert self._inference is not None
        try:
            kind = MESSAGES[self.values.image_transport]
            for stream in self._inference.streams.values():
                self._subscribe(kind, stream.topics.image, stream.receive)
                self._subscribe(CameraInfo, stream.topics.camera_info, stream.receive_camera_info)
            result = super().on_activate(state)
            self._inference.publish_labels(self.values.confidence_threshold)
        except Exception as error:
            failure = f"activate failed: {type(error).__name__}: {error}"
            self.get_logger().error(failure)
            self._status = replace(self._status, failure=failure)
            return TransitionCallbackReturn.ERROR
        self._inference.open_input()
        self._status = replace(self._status, state="active")
        heard = ", ".join(_described(subscription) for subscription in self._inputs)
        self.get_logger().info(f"active: listening to {heard}")
        return result

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None]) -> None:
        options = QoSOverridingOptions.with_default_policies()
        # A profile for each: rclpy writes the overrides into the one that it is given.
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
        )
        self._inputs.append(
            self.create_subscription(kind, topic, callback, qos, qos_overriding_options=options)
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe. Nothing is published after this returned.

        SUCCESS: inactive, the network stays loaded; a frame in work is dropped. FAILURE, ERROR:
        never.
        """
        self._unsubscribe()
        self._status = replace(self._status, state="inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the network.

        SUCCESS: unconfigured. FAILURE: never. ERROR: inference does not end within 5 s, which a
        hung driver causes; the node is unconfigured then, with the reason in /diagnostics.
        """
        if not self._release():
            return TransitionCallbackReturn.ERROR
        self._status, self._topics, self._journal = NodeStatus("unconfigured"), {}, None
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from any state. SUCCESS: finalized. FAILURE, ERROR: never."""
        self._release()
        self._status = replace(self._status, state="finalized")
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Recover from a transition that raised. SUCCESS: unconfigured. FAILURE, ERROR: never."""
        self._release()
        failure = self._status.failure or f"a transition from {state.label} failed"
        self._status = NodeStatus("unconfigured", failure=failure)
        return TransitionCallbackReturn.SUCCESS

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._inference is not None:
            self._inference.close_input()

    def _release(self) -> bool:
        """Undo activate and configure. Returns False if inference does not end."""
        self._unsubscribe()
        self._close_tf()
        inference, self._inference = self._inference, None
        if inference is None or inference.close(JOIN_TIMEOUT_S):
            return True
        failure = f"inference did not end within {JOIN_TIMEOUT_S:.0f} s"
        self.get_logger().error(failure)
        self._status = replace(self._status, failure=failure)
        return False

    def _close_tf(self) -> None:
        tf, self._tf = self._tf, None
        if tf is not None:
            tf.close()

    def is_unconfigured(self) -> bool:
        """Return whether parameters that act in configure may be changed."""
        return self._status.state == "unconfigured"

    def parameters_changed(self, before: Parameters) -> None:
        """Draw in the new colours, and send the labels again if they report a new value."""
        inference, values = self._inference, self.values
        if inference is None:
            return
        try:
            if values.palette != before.palette:
                inference.paint(values)
            if any(getattr(values, name) != getattr(before, name) for name in LABEL_PARAMETERS):
                inference.publish_labels(values.confidence_threshold)
        except Exception as error:  # the values hold all the same
            self.get_logger().error(f"the labels could not be sent again: {error}")

    def _snapshot(self) -> Snapshot:
        """The node as the heartbeat reports it."""
        inference, status = self._inference, self._status
        if inference is not None and status.backend:
            # The engine may have been replaced by another since configure.
            engine = inference.pipeline.engine
            status = replace(status, backend=engine.backend, precision=engine.precision)
        streams = {} if inference is None else inference.streams
        return Snapshot(
            replace(status, engine=EngineReport.of(self._journal)),
            self.values,
            dict(self._statistics),
            {camera: topics.image for camera, topics in self._topics.items()},
            {camera: stream.outputs.publishers for camera, stream in streams.items()},
        )

    def close(self) -> bool:
        """End the threads and destroy the node. Returns False if a thread is still busy."""
        self._heartbeat.close()
        stopped = self._release()
        for thread in threading.enumerate():
            if thread.name == LOADING_THREAD:
                thread.join(LOADING_TIMEOUT_S)  # to end a compiler, and what it started
                stopped = stopped and not thread.is_alive()
        self.destroy_node()
        return stopped


def _described(subscription: Any) -> str:
    """A subscription's topic, type and QoS, for the log."""
    qos, kind = subscription.qos_profile, subscription.msg_type
    return (
        f"{subscription.topic} ({kind.__module__.split('.')[0]}/{kind.__name__}, "
        f"{qos.reliability.name.lower().replace('_', ' ')}, depth {qos.depth})"
    )


def main() -> int:
    """Run the node, as the command depthforge_node; see process.py."""
    from depthforge_ros.ros.node.process import main as run

    return run()
