# SPDX-License-Identifier: Apache-2.0
"""Variants as small as they can be, for tests of every kind of layer."""

from __future__ import annotations

import dataclasses

BLOCKS = (0, 1, 2, 3)


def shallow(variant):
    """The variant with as few layers as it can have: every kind of layer at its full width."""
    few = {"blocks": len(BLOCKS)}
    return dataclasses.replace(
        variant,
        visual=dataclasses.replace(variant.visual, **few),
        depth=None if variant.depth is None else dataclasses.replace(variant.depth, **few),
        levels=BLOCKS,
        depth_head=dataclasses.replace(variant.depth_head, blocks=BLOCKS),
        decoder=dataclasses.replace(variant.decoder, encoder_layers=1, decoder_layers=1),
    )
