# SPDX-License-Identifier: Apache-2.0
"""Label ids of the public data sets in Cityscapes' 19 trainIds, and CamVid's coarser classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

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


class MapillaryMapping(Enum):
    """Which ids of Mapillary Vistas (Neuhold et al., ICCV 2017) become which trainIds."""

    PAPER = "paper"
    """Of the v1.2 labels, as DepthForge and Rein evaluate (tools/convert_datasets/
    mapillary2cityscape.py of both): every drivable surface is road, curb cuts and pedestrian areas
    are sidewalk, street lights are pole, frames and backs of signs are traffic sign."""
    ROBUSTNET = "robustnet"
    """Of the v1.2 labels, as RobustNet (Choi et al., CVPR 2021) evaluates: the same but for 10 ids,
    which are unlabelled, and manholes, which are road."""
    V2 = "v2"
    """Of the v2.0 labels, by the names in their config_v2.0.json. No published figure uses it."""


_MAPILLARY_COMMON = {
    13: ROAD, 24: ROAD,  # road, general lane marking
    2: SIDEWALK, 15: SIDEWALK,  # curb, sidewalk
    17: BUILDING, 6: WALL, 3: FENCE,
    45: POLE, 47: POLE,  # pole, utility pole
    48: LIGHT, 50: SIGN,  # traffic light, front of a traffic sign
    30: VEGETATION, 29: TERRAIN, 27: SKY, 19: PERSON,
    20: RIDER, 21: RIDER, 22: RIDER,  # bicyclist, motorcyclist, other rider
    55: CAR, 61: TRUCK, 54: BUS, 58: TRAIN, 57: MOTORCYCLE, 52: BICYCLE,
}  # fmt: skip

MAPILLARY = {
    MapillaryMapping.PAPER: label_table(
        _MAPILLARY_COMMON
        | {
            # bike lane, plain crosswalk, parking, service lane, zebra crossing
            7: ROAD, 8: ROAD, 10: ROAD, 14: ROAD, 23: ROAD,
            9: SIDEWALK, 11: SIDEWALK,  # curb cut, pedestrian area
            44: POLE,  # street light
            46: SIGN, 49: SIGN,  # frame and back of a traffic sign
        },
        known=66,
    ),
    MapillaryMapping.ROBUSTNET: label_table(
        _MAPILLARY_COMMON | {41: ROAD},  # manhole
        known=66,
    ),
}  # fmt: skip
"""Tables of the v1.2 labels (66 ids); that of v2.0 is made by `mapillary_v2`."""

MAPILLARY_V2_NAMES = {
    "construction--flat--road": ROAD,
    "construction--flat--road-shoulder": ROAD,
    "construction--flat--service-lane": ROAD,
    "construction--flat--bike-lane": ROAD,
    "construction--flat--crosswalk-plain": ROAD,
    "construction--flat--parking": ROAD,
    "construction--flat--parking-aisle": ROAD,
    "marking": ROAD,
    "marking-only": ROAD,
    "construction--flat--sidewalk": SIDEWALK,
    "construction--flat--curb-cut": SIDEWALK,
    "construction--flat--pedestrian-area": SIDEWALK,
    "construction--barrier--curb": SIDEWALK,
    "construction--structure--building": BUILDING,
    "construction--structure--garage": BUILDING,
    "construction--barrier--wall": WALL,
    "construction--barrier--fence": FENCE,
    "object--support--pole": POLE,
    "object--support--pole-group": POLE,
    "object--support--utility-pole": POLE,
    "object--street-light": POLE,
    "object--traffic-light": LIGHT,
    "object--traffic-sign": SIGN,
    "object--support--traffic-sign-frame": SIGN,
    "nature--vegetation": VEGETATION,
    "nature--terrain": TERRAIN,
    "nature--sky": SKY,
    "human--person": PERSON,
    "human--rider": RIDER,
    "object--vehicle--car": CAR,
    "object--vehicle--truck": TRUCK,
    "object--vehicle--bus": BUS,
    "object--vehicle--on-rails": TRAIN,
    "object--vehicle--motorcycle": MOTORCYCLE,
    "object--vehicle--bicycle": BICYCLE,
}
"""Names of Mapillary's v2.0 labels, or what they begin with before `--`."""


def mapillary_v2(names: Sequence[str]) -> np.ndarray:
    """Return the label table of Mapillary's v2.0 ids. names: of the labels in id order."""
    train_ids = {}
    for label_id, name in enumerate(names):
        parts = name.split("--")
        begins = ["--".join(parts[:count]) for count in range(len(parts), 0, -1)]
        known = next((begin for begin in begins if begin in MAPILLARY_V2_NAMES), None)
        if known is not None:
            train_ids[label_id] = MAPILLARY_V2_NAMES[known]
    return label_table(train_ids, known=len(names))


SYNTHIA = label_table(
    {
        1: SKY, 2: BUILDING, 3: ROAD, 4: SIDEWALK, 5: FENCE, 6: VEGETATION, 7: POLE, 8: CAR,
        9: SIGN, 10: PERSON, 11: BICYCLE, 12: MOTORCYCLE, 15: LIGHT, 16: TERRAIN, 17: RIDER,
        18: TRUCK, 19: BUS, 20: TRAIN, 21: WALL,
    },
    known=23,
)  # fmt: skip
"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016), by its README: 13 parking slot, 14 road work,
22 lane marking and 0 are unlabelled; terrain, truck and train do not occur."""

URBANSYN = label_table({train_id: train_id for train_id in range(19)}, known=20)
"""UrbanSyn (Gomez et al., 2023): trainIds, with 19 for everything else."""

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
    """Coarser classes to score in, for a data set that does not distinguish all trainIds.

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
