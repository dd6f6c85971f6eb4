# SPDX-License-Identifier: Apache-2.0
"""Label ids of the public data sets in Cityscapes' 19 trainIds, and what CamVid can tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthforge_ros.frame import UNLABELLED
from depthforge_ros.learning.samples import label_table

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)

TRAIN_IDS = label_table({train_id: train_id for train_id in range(19)}, known=19)
"""Files that hold trainIds already (BDD100K, ACDC's labelTrainIds)."""

CITYSCAPES_IDS = {
    7: ROAD, 8: SIDEWALK, 11: BUILDING, 12: WALL, 13: FENCE, 17: POLE, 19: LIGHT, 20: SIGN,
    21: VEGETATION, 22: TERRAIN, 23: SKY, 24: PERSON, 25: RIDER, 26: CAR, 27: TRUCK, 28: BUS,
    31: TRAIN, 32: MOTORCYCLE, 33: BICYCLE,
}  # fmt: skip
CITYSCAPES = label_table(CITYSCAPES_IDS, known=34)
"""`labelIds` of Cordts et al., CVPR 2016."""

GTA5 = label_table(CITYSCAPES_IDS, known=35)
"""GTA5 (Richter et al., ECCV 2016) has Cityscapes' ids, with 34 for the licence plate."""

MAPILLARY = label_table(
    {
        13: ROAD, 24: ROAD, 41: ROAD,  # road, general lane marking, manhole
        2: SIDEWALK, 15: SIDEWALK,  # curb, sidewalk
        17: BUILDING, 6: WALL, 3: FENCE,
        45: POLE, 47: POLE,  # pole, utility pole
        48: LIGHT, 50: SIGN,  # traffic light, front of a traffic sign
        30: VEGETATION, 29: TERRAIN, 27: SKY, 19: PERSON,
        20: RIDER, 21: RIDER, 22: RIDER,  # bicyclist, motorcyclist, other rider
        55: CAR, 61: TRUCK, 54: BUS, 58: TRAIN, 57: MOTORCYCLE, 52: BICYCLE,
    },
    known=66,
)  # fmt: skip
"""Mapillary Vistas v1.2 (66 ids, Neuhold et al., ICCV 2017), mapped as the published
generalisation benchmarks map it, so that their numbers compare."""

CAMVID = label_table(
    {
        0: SKY, 1: BUILDING, 2: POLE, 3: ROAD, 4: SIDEWALK, 5: VEGETATION, 6: SIGN, 7: FENCE,
        8: CAR, 9: PERSON, 10: RIDER,
    },
    known=12,
)  # fmt: skip
"""The 11-class relabelling of CamVid; 11 is unlabelled."""


@dataclass(frozen=True)
class ClassMerge:
    """Coarser classes to score in, where a data set cannot tell all trainIds apart.

    names: of the coarser classes. table: [256] uint8 from trainId to coarser id, 255 unlabelled;
    truth and prediction both go through it.
    """

    names: tuple[str, ...]
    table: np.ndarray


def _merge(groups: dict[str, tuple[int, ...]]) -> ClassMerge:
    table = np.full(256, UNLABELLED, np.uint8)
    for group_id, train_ids in enumerate(groups.values()):
        table[list(train_ids)] = group_id
    return ClassMerge(tuple(groups), table)


CAMVID_CLASSES = _merge(
    {
        "sky": (SKY,),
        "building": (BUILDING, WALL),
        "pole": (POLE,),
        "road": (ROAD,),
        "pavement": (SIDEWALK,),
        "tree": (VEGETATION, TERRAIN),
        "sign": (LIGHT, SIGN),
        "fence": (FENCE,),
        "car": (CAR, TRUCK, BUS, TRAIN),
        "pedestrian": (PERSON,),
        "bicyclist": (RIDER, BICYCLE, MOTORCYCLE),
    }
)
"""How the 11 classes absorb CamVid's original 32: walls are building, grass and bushes
(`VegetationMisc`) tree, traffic lights sign, trucks, buses and trains car, and two-wheelers with
or without their rider bicyclist."""
