# SPDX-License-Identifier: Apache-2.0
"""Stage joint, and the data that a teacher gives it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import DATA

from depthforge_ros.frame import DepthKind
from depthforge_ros.learning.batches import Batch
from depthforge_ros.learning.distil.taught import Taught
from depthforge_ros.learning.distil.teacher import on_plane, plane_of, rays_of, refined
from depthforge_ros.learning.label_ids import BUILDING, CAMVID_CLASSES, CAR, ROAD, TRUCK, WALL
from depthforge_ros.learning.pretrain import JointTask
from depthforge_ros.learning.samples import Sample
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.variant import Variant, load_variant


def small() -> Variant:
    variant = load_variant(DATA / "small.yaml")
    head = dataclasses.replace(
        variant.depth_head, kind=DepthKind.METRIC, max_depth_m=80.0, focal_px=200.0
    )
    return dataclasses.replace(variant, depth_head=head)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(19, (2, 4, 4), generator=generator)
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2).to(torch.uint8)
    images = torch.randint(256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    depth_m = 5 + 20 * torch.rand(2, 64, 64, generator=generator)
    depth_m[1] = torch.nan  # a real image without a teacher
    focal_px = torch.tensor([300.0, torch.nan])
    return Batch(images, labels, depth_m, focal_px, (0, 1), ("a", "b"), ())


def test_masks_and_depth_train_the_one_encoder() -> None:
    variant = dataclasses.replace(small(), depth=None)
    torch.manual_seed(0)
    task = JointTask(DepthForge(variant))
    loss = task(batch())
    loss.total.backward()
    parts = loss.parts
    assert loss.total.item() == pytest.approx(
        sum(parts[name].item() for name in ("entropy", "dice", "error"))
        + 0.5 * parts["edges"].item()
    )
    for part in ("visual.blocks.0", "depth_head.projects.0", "tokens.a", "mask_decoder.class_head"):
        found = [p for n, p in task.network.named_parameters() if n.startswith(part)]
        assert found
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in found)


def test_two_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit stage joint, which trains one encoder"):
        JointTask(DepthForge(small()))


def test_the_plane_of_a_road_is_found_beside_outliers() -> None:
    rays = rays_of(64, 48, 50.0)
    normal = np.array([0.02, 1.0, 0.03])
    normal /= np.linalg.norm(normal)
    truth = on_plane(normal / 1.5, rays)
    road = np.isfinite(truth) & (truth < 60)
    depth = np.where(road, truth, 20.0) * 1.7  # the teacher's scale is wrong
    depth[30, 10:20] = 3.0
    found = plane_of(depth, road, rays, height_m=1.5)
    np.testing.assert_allclose(on_plane(found, rays)[road], truth[road], rtol=0.01)
    assert plane_of(depth, np.zeros_like(road), rays, height_m=1.5) is None


def test_a_teacher_chooses_within_the_merged_class_alone() -> None:
    truth = np.array([[CAR, CAR, BUILDING, 255]], np.uint8)
    scores = np.zeros((19, 1, 4))
    scores[[TRUCK, CAR, ROAD], 0, 0] = 0.5, 0.3, 0.9
    scores[[CAR], 0, 1] = 0.2
    scores[[WALL, BUILDING], 0, 2] = 0.3, 0.2
    held = refined(truth, scores, CAMVID_CLASSES.table)
    assert held.tolist() == [[TRUCK, CAR, WALL, 255]]


def test_what_a_teacher_wrote_replaces_labels_and_depth(tmp_path: Path) -> None:
    plain = Sample(
        np.zeros((2, 3, 3), np.uint8), np.full((2, 3), CAR, np.uint8), None, "d", "clear", "s/a"
    )
    other = dataclasses.replace(plain, name="s/b")

    class Source(list):
        domain = "d"

    labels = np.full((2, 3), TRUCK, np.uint8)
    (tmp_path / "s").mkdir()
    depth_m = np.full((2, 3), 7.5, np.float16)
    np.savez(tmp_path / "s" / "a.npz", depth_m=depth_m, labels=labels, focal_px=np.float32(525))
    taught = Taught(Source([plain, other]), tmp_path)
    assert (len(taught), taught.domain) == (2, "d")
    assert taught[0].labels.tolist() == labels.tolist()
    assert taught[0].depth_m.dtype == np.float32
    assert (taught[0].depth_m[0, 0], taught[0].focal_px) == (7.5, 525.0)
    assert taught[1] is other
