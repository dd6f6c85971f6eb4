# SPDX-License-Identifier: Apache-2.0
"""Nothing of any variant is left to PyTorch by TensorRT, as far as names of operators tell."""

from __future__ import annotations

import pytest
import torch
from paths import TINY_YAML
from torch import nn
from variants import shallow

from depthforge_ros.cli import main
from depthforge_ros.engine.backends.audit import audit
from depthforge_ros.network.deploy import Folded, Sampling
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.network.export import export_network
from depthforge_ros.variant import load_variant, variant_names

TINY = TINY_YAML


def structure(variant):
    """What decides which operators a network has, and sizes and repetitions do not."""
    encoders = [
        (size.kind, size.swiglu, size.registers > 0, len(size.stem), any(size.stem_blocks))
        for size in variant.encoders.values()
    ]
    return (*encoders, variant.depth_head.kind)


VARIANTS = {
    structure(variant): shallow(variant)
    for variant in map(load_variant, [*variant_names(), "dinov2_s+registers+outdoor"])
}
"""One of every structure, with as few layers as can be: the others repeat them."""

del VARIANTS[structure(load_variant(TINY))]  # the verb's test audits that one


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_every_operator_of_every_variant_is_converted(variant):
    with torch.device("meta"):
        network = DepthForge(variant).eval()
    folded = Folded(network, torch.float16, Sampling.GATHER)
    found = audit(export_network(folded, 64, 96, images_type=torch.float32))
    assert found.fallbacks == {}
    assert found.operators["aten.scaled_dot_product_attention.default"] >= 6
    assert found.operators["aten.index_select.default"] >= 12  # deformable attention, gathered
    assert not [name for name in found.operators if "grid_sampler" in name]


class Odd(nn.Module):
    """Uses an operator that is not converted, once on the images and once on constants."""

    def forward(self, images):
        wave = torch.special.bessel_j0(torch.arange(4.0, device=images.device))
        return torch.special.bessel_j0(images) + wave.sum()


def test_what_is_not_converted_is_found_and_constants_are_not_counted():
    program = torch.export.export(Odd(), (torch.zeros(2, 3),))
    found = audit(program)
    assert found.fallbacks == {"aten.special_bessel_j0.default": 1}
    assert found.operators["aten.add.Tensor"] == 1


def test_the_verb_reports_it(capsys):
    assert main(["compile", str(TINY), "--shape", "64x64", "--audit"]) == 0
    reported = capsys.readouterr().out
    assert "at 64x64: " in reported
    assert "torch-tensorrt 2.13.0 converts all but 0" in reported
