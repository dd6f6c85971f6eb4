# SPDX-License-Identifier: Apache-2.0
"""Procedural driving scenes with exact labels and metric depth, for tests, demo and training.

A street is drawn from a seed (layout, colours, camera, traffic) and rendered by ray casting under
one of six conditions. Geometry, labels and depth depend on the seed alone, so two conditions of
one seed differ only in light, weather and sensor.

Conventions
- World: metres, x along the street, y left, z up; the carriageway is z = 0, everything beside it
  is one kerb higher. Camera: optical frame x right, y down, z forward (REP-103).
- Pixel `(u, v)` names a pixel centre; its ray is `((u - cx) / fx, (v - cy) / fy, 1)`. Each pixel
  is sampled once, at its centre: label and depth are those of the surface on that ray.
- Depth is z-depth, metres along the optical axis, +inf exactly where the label is sky (10).
- Flat surfaces and the ground are exact planes. Poles, limbs, trunks and crowns are capsules drawn
  as discs swept along their axis with a bulge towards the camera; their depth is the depth of that
  drawn surface. A leafless crown is one such surface although sky shows through its colour.
- Weather never changes labels or depth: road under snow is road, a flake has no label.

Seeds: train on `TRAIN_SEEDS`; `HELD_OUT_SEEDS` are for evaluation and are never trained on.
"""

from .drive import HELD_OUT_SEEDS, TRAIN_SEEDS, StreetDrive, StreetFrame
from .lighting import CONDITIONS

__all__ = ["CONDITIONS", "HELD_OUT_SEEDS", "TRAIN_SEEDS", "StreetDrive", "StreetFrame"]
