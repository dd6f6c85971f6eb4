# SPDX-License-Identifier: Apache-2.0
"""A variant: every size, constant and licence of one network, read from models/variants/*.yaml.

One frozen object keeps crop, mean, std, labels and the sources of weights together, so that a
checkpoint, an engine and a node can never disagree about them. No torch here: the command line
lists variants without loading it.
"""

from depthforge_ros.variant.files import (
    alternative_names,
    load_labels,
    load_variant,
    models_dir,
    variant_differences,
    variant_from_mapping,
    variant_names,
    variant_to_mapping,
)
from depthforge_ros.variant.labels import LabelClass, LabelSet
from depthforge_ros.variant.sizes import (
    PATCH,
    STEM_GROUPS,
    Adapter,
    DecoderSize,
    DepthHeadSize,
    Source,
    VitSize,
)
from depthforge_ros.variant.variant import Variant

__all__ = [
    "PATCH",
    "STEM_GROUPS",
    "Adapter",
    "DecoderSize",
    "DepthHeadSize",
    "LabelClass",
    "LabelSet",
    "Source",
    "Variant",
    "VitSize",
    "alternative_names",
    "load_labels",
    "load_variant",
    "models_dir",
    "variant_differences",
    "variant_from_mapping",
    "variant_names",
    "variant_to_mapping",
]
