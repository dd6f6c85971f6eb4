# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `depthforge`: images in; masks, depth and diagnostics out.

The executor's thread runs short callbacks, inference has threads of its own (inference.py), and a
heartbeat reports once a second, also while configure reads weights.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depthforge_ros.cpu_tuning import calm_idle_threads, keep_freed_memory
from depthforge_ros.ros.node.camera_names import topic_of
from depthforge_ros.ros.node.camera_stream import Stream
from depthforge_ros.ros.node.diagnostics import EngineReport, NodeStatus, Source, statuses
from depthforge_ros.ros.node.inference import Inference, load_pipeline
from depthforge_ros.ros.node.parameter_descriptors import changed, declarations
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.ros.node.statistics import Acknowledgements, Statistics
from depthforge_ros.ros.node.worker import LOADING_THREAD, AbandonedError, run_abandonable

if TYPE_CHECKING:
    from depthforge_ros.engine import Journal


class RosLog(logging.Handler):
    """Python's log records of the package, in the node's log."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record, at the level nearest to its own."""
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


RCLError = rclpy_implementation.RCLError

TICK_S = 0.25
TICKS = 4  # to a report: one a second
JOIN_TIMEOUT_S = 5.0
LOADING_TIMEOUT_S = 1.0
SPIN_TIMEOUT_S = 0.1

INPUTS: dict[str, tuple[type, str]] = {
    "raw": (Image, "image"),
    "compressed": (CompressedImage, "image/compressed"),
}
"""Message and topic of every image_transport."""


class DepthForgeNode(LifecycleNode):
    """Lifecycle: unconfigured -configure-> inactive (network loaded) -activate-> active."""

    def __init__(self, keep_going: Callable[[], bool] = rclpy.ok) -> None:
        """keep_going: whether the process goes on; asked while configure loads.

        Raises ValueError, or rclpy's InvalidParameter exceptions, for a bad start value.
        """
        super().__init__("depthforge")
        self._survive_wrong_transitions()
        self._keep_going = keep_going
        self.declare_parameters("", declarations())
        self._values = Parameters(
            **{name: self.get_parameter(name).value for name, _, _ in declarations()}
        )
        self.add_on_set_parameters_callback(self._set_parameters)
        self._warn_of_unknown_parameters()
        self._statistics = {camera: Statistics() for camera in self._values.cameras}
        self._topics: dict[str, str] = {}
        self._acknowledgements: dict[str, Acknowledgements] = {}
        self._situation = NodeStatus("unconfigured")
        self._journal: Journal | None = None
        self._inference: Inference | None = None
        self._inputs: list = []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._closing = threading.Event()
        self._heartbeat = threading.Thread(
            target=self._report, name="depthforge_heartbeat", daemon=True
        )
        self._heartbeat.start()
        if self._values.autostart:
            # A timer, so that it runs in the executor like every other transition.
            self._start_timer = self.create_timer(0.0, self._autostart)

    def _survive_wrong_transitions(self) -> None:
        """Answer a request for a transition that the state does not have with success = false.

        rclpy raises into the executor instead, which ends the process and leaves the client
        without an answer.
        """
        service = getattr(self, "_service_change_state", None)
        if service is None:
            return
        change_state = service.callback

        def answer(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except RCLError as error:
                self.get_logger().error(f"refused in state {self._situation.state}: {error}")
                response.success = False
                return response

        service.callback = answer

    def _autostart(self) -> None:
        self.destroy_timer(self._start_timer)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network and create the publishers.

        SUCCESS: inactive. FAILURE: the variant, the weights or the device are absent or wrong;
        the node stays unconfigured, the reason is logged and in /diagnostics. ERROR: never.
        """
        values = self._values
        self._journal = None
        self._situation = NodeStatus(
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
            self._inference = Inference(self, pipeline, self._statistics, lambda: self._values)
        except AbandonedError:
            return self._configure_failed("configure was given up because the process ends")
        except (ValueError, OSError) as error:
            return self._configure_failed(f"configure failed: {error}")
        except Exception as error:  # whatever a driver, a compiler or a file may raise
            self.get_logger().error(traceback.format_exc())
            return self._configure_failed(f"configure failed: {type(error).__name__}: {error}")
        engine = pipeline.engine
        self._situation = replace(
            self._situation,
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
        """Where the images come from, and an account of each camera; one that stays keeps its."""
        topic = INPUTS[values.image_transport][1]
        self._topics = {
            camera: self.resolve_topic_name(topic_of(camera, topic)) for camera in values.cameras
        }
        known = self._statistics
        self._statistics = {
            camera: known[camera] if camera in known else Statistics() for camera in values.cameras
        }

    def _follow(self, journal: Journal) -> None:
        """Report what becomes of the engine from now on."""
        self._journal = journal

    def _configure_failed(self, reason: str) -> TransitionCallbackReturn:
        self.get_logger().error(reason)
        self._situation = replace(self._situation, state="unconfigured", failure=reason)
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and publish.

        SUCCESS: active. FAILURE: never. ERROR: a subscription cannot be created, for example
        because of a QoS override; everything is released and the node is unconfigured, with the
        reason logged and in /diagnostics.
        """
        assert self._inference is not None
        try:
            kind, topic = INPUTS[self._values.image_transport]
            for camera, stream in self._inference.streams.items():
                self._subscribe(kind, topic_of(camera, topic), stream.receive)
                info_topic = topic_of(camera, "camera_info")
                self._subscribe(CameraInfo, info_topic, stream.receive_camera_info)
            result = super().on_activate(state)
            self._inference.publish_labels(self._values.confidence_threshold)
        except Exception as error:
            failure = f"activate failed: {type(error).__name__}: {error}"
            self.get_logger().error(failure)
            self._situation = replace(self._situation, failure=failure)
            return TransitionCallbackReturn.ERROR
        self._inference.open_input()
        self._situation = replace(self._situation, state="active")
        return result

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None]) -> None:
        options = QoSOverridingOptions.with_default_policies()
        # One for each: rclpy writes the overrides into the profile that it is given.
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
        )
        self._inputs.append(
            self.create_subscription(kind, topic, callback, qos, qos_overriding_options=options)
        )

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe. When this returns nothing is published any more.

        SUCCESS: inactive, the network stays loaded; a frame at hand is dropped. FAILURE, ERROR:
        never.
        """
        self._unsubscribe()
        self._situation = replace(self._situation, state="inactive")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the network go.

        SUCCESS: unconfigured. FAILURE: never. ERROR: inference does not end within 5 s, which a
        hung driver causes; the node is unconfigured then, with the reason in /diagnostics.
        """
        if not self._release():
            return TransitionCallbackReturn.ERROR
        self._situation, self._topics, self._journal = NodeStatus("unconfigured"), {}, None
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let everything go, from any state. SUCCESS: finalized. FAILURE, ERROR: never."""
        self._release()
        self._situation = replace(self._situation, state="finalized")
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Recover from a transition that raised. SUCCESS: unconfigured. FAILURE, ERROR: never."""
        self._release()
        failure = self._situation.failure or f"a transition from {state.label} failed"
        self._situation = NodeStatus("unconfigured", failure=failure)
        return TransitionCallbackReturn.SUCCESS

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._inference is not None:
            self._inference.close_input()

    def _release(self) -> bool:
        """Undo activate and configure. Returns False where inference does not end."""
        self._unsubscribe()
        inference, self._inference = self._inference, None
        if inference is None or inference.close(JOIN_TIMEOUT_S):
            return True
        failure = f"inference did not end within {JOIN_TIMEOUT_S:.0f} s"
        self.get_logger().error(failure)
        self._situation = replace(self._situation, failure=failure)
        return False

    def _set_parameters(self, requested: list[Parameter]) -> SetParametersResult:
        values = {parameter.name: parameter.value for parameter in requested}
        unconfigured = self._situation.state == "unconfigured"
        candidate, result = changed(self._values, values, unconfigured=unconfigured)
        before, inference = self._values, self._inference
        if inference is not None and candidate.palette != before.palette:
            try:
                inference.paint(candidate)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
        self._values = candidate
        label_parameters = (
            "palette",
            "confidence_threshold",
        )  # beside the classes, by ~/labels and its like
        if inference is not None and any(
            getattr(candidate, n) != getattr(before, n) for n in label_parameters
        ):
            try:
                inference.publish_labels(candidate.confidence_threshold)
            except Exception as error:  # the values hold all the same
                self.get_logger().error(f"the labels could not be sent anew: {error}")
        return result

    def _warn_of_unknown_parameters(self) -> None:
        """ROS ignores start values of parameters that nobody declares, so a typo goes unnoticed."""
        known = [name for name, _, _ in declarations()]
        # rclpy has no public way to ask what was given.
        for name in getattr(self, "_parameter_overrides", {}):
            if not self.has_parameter(name) and not name.startswith("qos_overrides."):
                self.get_logger().warning(
                    f"parameter {name!r} is unknown and ignored; known: {', '.join(known)}"
                )

    def _report(self) -> None:
        name = self.get_fully_qualified_name().lstrip("/")
        ticks = 0
        while not self._closing.wait(TICK_S):
            inference, ticks = self._inference, ticks + 1
            self._watch_listeners({} if inference is None else inference.streams)
            if ticks % TICKS:
                continue
            report = DiagnosticArray()
            report.header.stamp = self.get_clock().now().to_msg()
            healths = {camera: s.snapshot() for camera, s in self._statistics.items()}
            try:
                sources = self._sources()
                report.status = statuses(name, self._described(), healths, sources, self._values)
                self._diagnostics.publish(report)
            except Exception:  # the context ended since
                if self.context.ok():
                    raise

    def _sources(self) -> dict[str, Source]:
        """Where each camera's images come from at the moment."""
        topics = self._topics.items()
        return {camera: Source(topic, self.count_publishers(topic)) for camera, topic in topics}

    def _watch_listeners(self, streams: Mapping[str, Stream]) -> None:
        """Note for every camera of which outputs a listener has not taken the newest message."""
        for camera, statistics in self._statistics.items():
            watched = self._acknowledgements.setdefault(camera, Acknowledgements())
            publishers = streams[camera].outputs.publishers if camera in streams else {}
            statistics.unacknowledged(watched.poll(publishers))

    def _described(self) -> NodeStatus:
        """The situation with what the engine is now: it may have had to give way to another."""
        inference, situation = self._inference, self._situation
        if inference is not None and situation.backend:
            engine = inference.pipeline.engine
            situation = replace(situation, backend=engine.backend, precision=engine.precision)
        return replace(situation, engine=EngineReport.of(self._journal))

    def close(self) -> bool:
        """End the threads and destroy the node. Returns False where a thread is still busy."""
        self._closing.set()
        self._heartbeat.join()
        stopped = self._release()
        for thread in threading.enumerate():
            if thread.name == LOADING_THREAD:
                thread.join(LOADING_TIMEOUT_S)  # to end a compiler, and what it started
                stopped = stopped and not thread.is_alive()
        self.destroy_node()
        return stopped


def main(argv: list[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or a shutdown of the context; exit status 0 then.

    2 where a parameter's start value is not allowed, with one line that says which.
    """
    calm_idle_threads()
    keep_freed_memory()
    # Handlers of our own: rclpy's end the context under running callbacks, and Python's raises
    # KeyboardInterrupt into whatever line is running.
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.append(received))
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)

    def keep_going() -> bool:
        return not signals and rclpy.ok()

    try:
        node = DepthForgeNode(keep_going)
    except (ValueError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"depthforge_node: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    logging.getLogger("depthforge_ros").addHandler(RosLog(node))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(ExternalShutdownException):
        while keep_going():
            # Python handles a signal once the executor's wait is over.
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
    ended = node.close()
    rclpy.try_shutdown()
    if not ended:
        # A thread that still runs C++ code crashes the interpreter's orderly end.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
