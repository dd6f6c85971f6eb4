# SPDX-License-Identifier: Apache-2.0
"""Packaging for colcon (ament_python) and for pip."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "depthforge_ros"
SHARE = f"share/{NAME}"

# What people have fetched or left behind in a working tree is no part of a package.
LEFT_OUT = {"fetched", "__pycache__"}


def installed_below_share(folder):
    """(target folder, files) for `folder` and every folder below it, as data_files wants them."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    kept = [path for path in files if not LEFT_OUT & set(path.parts)]
    parents = sorted({path.parent for path in kept})
    return [
        (f"{SHARE}/{parent.as_posix()}", [p.as_posix() for p in kept if p.parent == parent])
        for parent in parents
    ]


setup(
    name=NAME,
    version="0.2.0",
    description="Semantic masks and depth images from cameras with DepthForge, for night and snow.",
    license="Apache-2.0",
    maintainer="DepthForge ROS maintainers",
    maintainer_email="maintainers@depthforge-ros.invalid",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        *installed_below_share("launch"),
        *installed_below_share("config"),
        *installed_below_share("rviz"),
        *installed_below_share("models"),
    ],
    zip_safe=False,
    python_requires=">=3.10,<3.13",
    install_requires=[
        "numpy<2.3",  # cv_bridge's wheel fails with later ones
        "onnx>=1.17",
        "onnxscript>=0.5",
        "opencv-python-headless",
        "openvino>=2025.0",  # 180 MB; `auto` takes it on a CPU
        "pyyaml",
        "rich",
        "safetensors",
        "simplejpeg>=1.7.4",  # the first with strict decoding
        "torch>=2.4",
        "tqdm",
    ],
    extras_require={
        "export": ["onnxruntime>=1.20"],  # `depthforge export` checks every file with it
        # ROS 2 Jazzy from wheels (x86-64 Linux), for machines without a ROS distribution. All of
        # one release: they share C libraries whose layout changes between releases.
        "ros": [
            "cv-bridge==1.13.0.post0",
            "mcap>=1.2,<2",
            "ros-diagnostic-msgs==5.3.6",
            "ros-nav-msgs==5.3.6",
            "ros-rclpy[fastrtps]==7.1.6",
            "ros-sensor-msgs==5.3.6",
            "rosbags>=0.11,<0.12",
            "zstandard",
        ],
        "view": ["rerun-sdk>=0.39"],  # 170 MB, with its viewer; works without a network
        "hub": ["huggingface_hub"],  # for `weights fetch`: mirrors, tokens, faster transfers
        "train": ["matplotlib", "pillow", "scipy", "tensorboard"],
        "test": [
            "colcon-common-extensions",
            "hypothesis>=6",
            "mypy>=1.15",
            "onnxruntime>=1.20",
            "pytest>=8",
            "pytest-xdist>=3.6",  # runs tests side by side
            "ruff>=0.17,<0.18",  # what it reports and how it formats changes between minors
            "scikit-learn",
            "types-PyYAML",
            "types-tqdm",
            "wheel",  # the tests install without build isolation; setuptools < 70.1 needs it
        ],
    },
    entry_points={
        "console_scripts": [
            "depthforge = depthforge_ros.cli:main",
            "depthforge_node = depthforge_ros.ros.node.node:main",
        ],
    },
)
