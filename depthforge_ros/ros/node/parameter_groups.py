# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node, declared once: type, default, range, meaning, and when it acts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from depthforge_ros.ros.calibration import RECTIFIED
from depthforge_ros.ros.node.camera_names import UNNAMED
from depthforge_ros.ros.node.parameter_field import Effect, parameter

ALL = "all"


@dataclass(frozen=True)
class NetworkParameters:
    """The network and how it is executed."""

    variant: str = parameter(
        "nano",
        Effect.CONFIGURE,
        "Network: the name of a file in models/variants, dinov2_s+outdoor for one of its "
        "alternatives, or the path of a .yaml file like them.",
    )
    checkpoint: str = parameter(
        "",
        Effect.CONFIGURE,
        "Weights: a .safetensors file, or several joined by commas; empty: the ones that ship with "
        "the variant; 'untrained': random ones; 'instant': no network, the same answer at once.",
    )
    device: str = parameter(
        "auto",
        Effect.CONFIGURE,
        "Where the network runs: cpu, cuda, cuda:1; GPU, GPU.1, NPU: an Intel device, by OpenVINO; "
        "auto: cuda where there is one.",
    )
    backend: str = parameter(
        "auto",
        Effect.CONFIGURE,
        "What runs the network: eager: PyTorch; openvino: compiled by OpenVINO for the CPU; "
        "tensorrt: compiled by NVIDIA's TensorRT; auto: the fastest that is available and agrees "
        "with eager fp32.",
        choices=("auto", "eager", "openvino", "tensorrt"),
    )
    precision: str = parameter(
        "auto",
        Effect.CONFIGURE,
        "Arithmetic of the network: fp32, bf16 or fp16; auto: the fastest of them that the device "
        "has and that agrees with fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    image_size: str = parameter(
        "",
        Effect.CONFIGURE,
        "Size of the images to come, WIDTHxHEIGHT, several joined by commas: their engines are "
        "built in configure; empty: engines of the cache, and others in the background once images "
        "come, while eager runs.",
    )
    threads: int = parameter(
        0,
        Effect.CONFIGURE,
        "Threads the network may use on the CPU; 0: as many as PyTorch chooses.",
        low=0,
        high=256,
    )


@dataclass(frozen=True)
class InputParameters:
    """Where images come from and how they are read."""

    image_transport: str = parameter(
        "raw",
        Effect.CONFIGURE,
        "raw: sensor_msgs/Image on `image`; compressed: sensor_msgs/CompressedImage on "
        "`image/compressed`.",
        choices=("raw", "compressed"),
    )
    cameras: tuple[str, ...] = parameter(
        (UNNAMED,),
        Effect.CONFIGURE,
        "Names of the cameras that share the network: `front` has `front/image` and "
        "`front/camera_info`, and `~/front/semantic`; one empty name: one camera, on `image`.",
    )
    encoding: str = parameter(
        "",
        Effect.LIVE,
        "Pixel encoding of the images, in place of the one their messages name, for drivers that "
        "name a wrong one: rgb8, bayer_rggb8, yuyv, nv21 ...; empty: as the messages say.",
    )
    rectified: str = parameter(
        "auto",
        Effect.LIVE,
        "Whether images are rectified: P of their camera_info holds then, and K, D and the "
        "distortion model otherwise. auto: by the topic's name (image_rect, image_raw), otherwise "
        "raw; /diagnostics reports how it was decided.",
        choices=RECTIFIED,
    )
    sample_bits: int = parameter(
        0,
        Effect.LIVE,
        "Significant bits of 16-bit samples (mono16, bayer_rggb16 ...), 9..16; 0: found from the "
        "largest value so far: 10, 12, 14 or 16.",
        low=0,
        high=16,
    )


@dataclass(frozen=True)
class OutputParameters:
    """What is inferred and published."""

    mode: str = parameter(
        "whole",
        Effect.LIVE,
        "whole: the frame at once, fast; slide: overlapping windows of the size the network was "
        "trained on, slower and finer.",
        choices=("whole", "slide"),
    )
    short_side_px: int = parameter(
        0,
        Effect.LIVE,
        "Short side to which a frame is resized before inference, 64..4096 pixels; 0: the crop of "
        "the variant.",
        low=0,
        high=4096,
    )
    max_batch: int = parameter(
        8,
        Effect.LIVE,
        "Most windows of mode `slide`, or frames of several cameras, that run at once.",
        low=1,
        high=64,
    )
    confidence_threshold: float = parameter(
        0.0,
        Effect.LIVE,
        "Pixels of lower confidence than this become 255 (unlabelled) in ~/semantic.",
        low=0.0,
        high=1.0,
    )
    full_size: bool = parameter(
        True,
        Effect.LIVE,
        "true: outputs have the size of the image; false: the size of the inference, and "
        "~/camera_info is scaled with them.",
    )
    outputs: str = parameter(
        ALL,
        Effect.LIVE,
        "Outputs of a frame that may be published, their names joined by commas; all: every one "
        "that has a listener.",
    )
    complete_sets: bool = parameter(
        False,
        Effect.LIVE,
        "true: a frame without ~/points publishes neither ~/semantic nor ~/confidence, for "
        "consumers that join the three by stamp and keep what is incomplete.",
    )
    max_depth_m: float = parameter(
        0.0,
        Effect.LIVE,
        "Metres beyond which ~/depth is +Inf, which means out of range; 0: no limit.",
        low=0.0,
        high=1000.0,
    )
    depth_confidence_threshold: float = parameter(
        0.0,
        Effect.LIVE,
        "Pixels of lower confidence than this have NaN, which means unknown, for depth and in "
        "~/points; low-confidence obstacles stay occupied in ~/drivable.",
        low=0.0,
        high=1.0,
    )
    palette: str = parameter(
        "",
        Effect.LIVE,
        "Colours of classes for people, person=#ff0000, several joined by commas, without a space "
        "before #, which YAML takes for a comment; classes that are not named keep those of the "
        "label set. ~/labels and ~/legend are sent anew.",
    )
    overlay_opacity: float = parameter(
        0.5,
        Effect.LIVE,
        "Share of the class colour in ~/overlay; the rest is the image.",
        low=0.0,
        high=1.0,
    )


@dataclass(frozen=True)
class GroundParameters:
    """Where the cameras are, and ~/drivable."""

    camera_height_m: float = parameter(
        0.0,
        Effect.CONFIGURE,
        "Height of the camera above the ground, 0.1..10 m. ~/drivable needs it, and a relative "
        "variant gives ~/depth in metres by it and the road, beside ~/inverse_depth. 0: by "
        "camera_poses or tf; without any of these, neither is published.",
        low=0.0,
        high=10.0,
    )
    base_frame: str = parameter(
        "base_footprint",
        Effect.CONFIGURE,
        "frame_id of ~/drivable: level, x forward, y left, its origin on the ground. tf gives the "
        "camera's place in it, unless the camera_ parameters do.",
    )
    camera_poses: str = parameter(
        "",
        Effect.CONFIGURE,
        "Places of several cameras in base_frame: CAMERA x y z roll pitch yaw, several joined by "
        "commas, in metres and radians as the camera_ parameters of a single camera: "
        "front 1.5 0 1.4 0 0.1 0, left 1 0.5 1.4 0 0.1 1.57. A camera that is not named: by tf.",
    )
    camera_x_m: float = parameter(
        0.0,
        Effect.CONFIGURE,
        "Metres of the camera in front of base_frame.",
        low=-100.0,
        high=100.0,
    )
    camera_y_m: float = parameter(
        0.0, Effect.CONFIGURE, "Metres of the camera left of base_frame.", low=-100.0, high=100.0
    )
    camera_roll_rad: float = parameter(
        0.0,
        Effect.CONFIGURE,
        "Roll of the camera in base_frame, right side down (as in a URDF).",
        low=-math.pi,
        high=math.pi,
    )
    camera_pitch_rad: float = parameter(
        0.0,
        Effect.CONFIGURE,
        "Pitch of the camera in base_frame, nose down (as in a URDF). Metres by the road use it "
        "for a camera that sees no sky; at 0 they learn it from images with sky.",
        low=-math.pi / 2,
        high=math.pi / 2,
    )
    camera_yaw_rad: float = parameter(
        0.0,
        Effect.CONFIGURE,
        "Yaw of the camera in base_frame, to the left (as in a URDF).",
        low=-math.pi,
        high=math.pi,
    )
    drivable_classes: str = parameter(
        "road",
        Effect.CONFIGURE,
        "Classes that ~/drivable shows as free ground, joined by commas; road,sidewalk,terrain for "
        "a robot that may leave the road.",
    )
    obstacle_classes: str = parameter(
        "",
        Effect.CONFIGURE,
        "Classes that ~/drivable shows as occupied, joined by commas; empty: all but the drivable "
        "ones and sky.",
    )
    drivable_cell_m: float = parameter(
        0.2, Effect.CONFIGURE, "Side of a cell of ~/drivable, metres.", low=0.02, high=5.0
    )
    drivable_range_m: float = parameter(
        40.0,
        Effect.CONFIGURE,
        "How far ~/drivable reaches from base_frame, to every side, metres.",
        low=1.0,
        high=200.0,
    )
    obstacle_height_m: float = parameter(
        2.5,
        Effect.CONFIGURE,
        "Height above the ground from which on nothing is an obstacle: bridges, signs, branches.",
        low=0.1,
        high=20.0,
    )
    ground_tolerance_m: float = parameter(
        0.2,
        Effect.CONFIGURE,
        "How far above or below the ground's plane drivable pixels may be to count as ground, "
        "beside 3 % of their distance.",
        low=0.01,
        high=2.0,
    )


@dataclass(frozen=True)
class MonitoringParameters:
    """Rates, limits and what /diagnostics reports."""

    max_rate_hz: float = parameter(
        0.0,
        Effect.LIVE,
        "Largest number of frames of a camera inferred per second; 0: no limit.",
        low=0.0,
        high=1000.0,
    )
    stall_after_s: float = parameter(
        1.0,
        Effect.LIVE,
        "Seconds without an image, in work on one, or without an acknowledgement by a listener, "
        "after which /diagnostics, at its next report within a second, warns.",
        low=0.1,
        high=3600.0,
    )
    stall_error_after_s: float = parameter(
        4.0,
        Effect.LIVE,
        "Seconds without an image that can be served, or without an acknowledgement by a listener, "
        "after which /diagnostics, at its next report, reports an error.",
        low=0.1,
        high=3600.0,
    )
    max_inference_s: float = parameter(
        4.0,
        Effect.LIVE,
        "Seconds of work on one frame after which /diagnostics, at its next report, reports an "
        "error: the engine hangs.",
        low=0.1,
        high=3600.0,
    )
    max_frame_age_s: float = parameter(
        1.0,
        Effect.LIVE,
        "Most seconds, in ROS time, that a frame's stamp may be behind the clock, or ahead of it: "
        "one that is when it arrives or when its turn comes is dropped as drop_stale says, and "
        "one that is when it is published is warned of in /diagnostics; 0: no limit.",
        low=0.0,
        high=3600.0,
    )
    drop_stale: bool = parameter(
        True,
        Effect.LIVE,
        "true: frames beyond max_frame_age_s are dropped and counted as stale, future or "
        "zero_stamp; false: they are served, and /diagnostics warns.",
    )
    degradation_warn: float = parameter(
        0.2,
        Effect.LIVE,
        "Expected share of wrong pixels in a mask, 0..1, from which on /diagnostics warns; 0: "
        "never. Computed from the mask's mean confidence.",
        low=0.0,
        high=1.0,
    )
    degradation_error: float = parameter(
        0.5,
        Effect.LIVE,
        "Expected share of wrong pixels from which on /diagnostics reports an error; 0: never.",
        low=0.0,
        high=1.0,
    )
    depth_scale_warn: float = parameter(
        0.25,
        Effect.LIVE,
        "Share by which the camera's height above the road, as metric depth shows it, may differ "
        "from its configured height before /diagnostics warns. Median over 8 to 10 frames, one a "
        "second, if ~/depth, ~/points or ~/drivable has a listener; 0: not measured.",
        low=0.0,
        high=10.0,
    )
    autostart: bool = parameter(
        True,
        Effect.STARTUP,
        "Configure and activate automatically at the start; false: wait for lifecycle requests.",
    )
