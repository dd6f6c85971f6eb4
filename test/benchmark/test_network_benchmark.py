# SPDX-License-Identifier: Apache-2.0
"""`depthforge benchmark network`: what it counts, what it measures, and what it compares."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from paths import TINY
from waits import WAIT_S

from depthforge_ros import cli
from depthforge_ros.benchmark.network import Comparison, Figures, text
from depthforge_ros.benchmark.settings import WrittenOutAttention, countable, prepare
from depthforge_ros.benchmark.stages import REST, STAGES, Compiled, stage_flops, stage_seconds
from depthforge_ros.network.depthforge import DepthForge
from depthforge_ros.variant import load_variant


def test_stages_are_the_whole_and_count_what_the_formula_says():
    variant = load_variant(TINY / "tiny.yaml")
    with torch.device("meta"):
        network = DepthForge(variant)
        images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    flops = {}
    for name in ("plain", "fp32"):
        way = countable(name, network, 64, 64)
        with torch.no_grad(), way.mode():
            flops[name] = stage_flops(way.network, images)
        assert tuple(flops[name]) == STAGES
    C, N, blocks = 64, 16, variant.visual.blocks
    tokens = N + 1
    block = 2 * tokens * 12 * C * C + 4 * tokens * tokens * C  # linear layers and attention
    encoder = 2 * (blocks * block + 2 * N * 3 * 16 * 16 * C)  # of two images
    for counts in flops.values():
        assert counts["visual encoder"] == counts["depth encoder"] == encoder
    for stage in STAGES:
        assert flops["fp32"][stage] <= flops["plain"][stage]


WITHOUT_ROS = """
import sys
sys.modules.update(dict.fromkeys(("rclpy", "rosbags", "sensor_msgs", "rcl_interfaces")))
from depthforge_ros import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_network_is_measured_where_there_is_no_ros():
    options = ["network", "fp32", "--variant", str(TINY / "tiny.yaml"), "--crop", "32x32"]
    command = [sys.executable, "-c", WITHOUT_ROS, "benchmark", *options, "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "fp32: median" in done.stdout


def test_the_seconds_of_all_stages_are_those_of_the_run():
    network = DepthForge(load_variant(TINY / "tiny.yaml")).eval()
    with torch.inference_mode():
        spent_s = stage_seconds(network, torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert tuple(spent_s) == STAGES
    assert all(value > 0 for value in spent_s.values())
    assert not any(module._forward_hooks for module in network.modules())


def test_attention_written_out_is_attention():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64).unbind(0)
    mask = torch.rand(2, 1, 5, 5) < 0.5
    mask[..., 0] = True
    for looks in (None, mask):
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=looks)
        with WrittenOutAttention():
            torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, looks), expected)


def test_two_settings_are_measured_in_turn(tmp_path, capsys):
    out = tmp_path / "figures.json"
    options = ["--variant", str(TINY / "tiny.yaml"), "--checkpoint"]
    options += [str(TINY / "tiny_weights.safetensors"), "--crop", "96x64", "--device", "cpu"]
    options += ["--runs", "2", "--json", str(out)]
    assert cli.main(["benchmark", "network", "fp32", "--vs", "plain", *options]) == 0
    figures = json.loads(out.read_text("utf-8"))
    assert figures["images"] == [1, 3, 64, 96]
    fast, plain = figures["settings"]
    assert (fast["name"], plain["name"]) == ("fp32", "plain")
    assert sum(fast["stage_flops"].values()) == fast["flops"] < plain["flops"]
    assert len(fast["seconds"]) == len(plain["seconds"]) == 2
    assert fast["ceiling_flops_per_s"] == plain["ceiling_flops_per_s"] > 1e9
    (compared,) = figures["comparisons"]
    assert (compared["name"], compared["vs"]) == ("fp32", "plain")
    expected = [b / a for a, b in zip(fast["seconds"], plain["seconds"], strict=True)]
    assert compared["ratios"] == expected
    assert compared["labels_agree"] == 1.0
    assert compared["patterns_agree"] > 0.99
    printed = capsys.readouterr().out
    assert "tiny, 1 x 96x64" in printed
    assert "times as fast as plain" in printed


def test_the_text_tells_medians_and_shares():
    flops = dict.fromkeys(STAGES, 0) | {"tokens": 3_000_000_000, "refinement": 1_000_000_000}
    spent_s = dict.fromkeys(STAGES, 0.0) | {"tokens": 0.06, "refinement": 0.04}
    spans = (0.1, 0.2, 0.05), (0.2, 0.3, 0.1)
    one = Figures("bf16", "bfloat16", 4_000_000_000, *spans, flops, spent_s, 1e11)
    other = Figures("plain", "float32", 8_000_000_000, *spans, flops, spent_s, 1e11)
    compared = Comparison("bf16", "plain", (3.0, 2.0, 4.0), (3.5, 3.5, 1.0), 0.9876, 0.5)
    lines = text("nano", [one, other], [compared]).splitlines()
    assert lines[2] == (
        "bf16: median 100.0 ms (50.0 to 200.0, 3 runs; processors 200.0 ms), 4.0 GFLOP, "
        "40% of the bfloat16 ceiling of 100 GFLOP/s"
    )
    assert lines[6].split() == ["tokens", "3.0", "60.0", "50%"]
    assert lines[-1] == (
        "bf16 is 3.00 times as fast as plain (2.00 to 4.00 in 3 pairs of runs; by processor time "
        "3.50); "
        "98.76% of the labels agree, 50.00% with the mean of each class taken away"
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--runs", "0"], "--runs is 0; expected at least 1"),
        (
            ["--crop", "big"],
            "--crop is 'big'; expected WIDTHxHEIGHT in pixels, width first, such as 1920x1080",
        ),
        (["--crop", "64x100"], "shape is 64x100; expected WIDTHxHEIGHT, positive multiples of 32"),
        (["--json", "/nowhere/a.json"], "--json is /nowhere/a.json, whose folder does not exist"),
    ],
)
def test_bad_input_is_one_line(capsys, options, line):
    assert cli.main(["benchmark", "network", "fp32", *options]) == 2
    assert capsys.readouterr().err == f"depthforge benchmark: {line}\n"


def test_a_program_of_another_runtime_is_one_stage():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    spent_s = stage_seconds(Compiled(lambda x: (x, None)), images)
    assert spent_s[REST] > 0
    assert {stage for stage, value in spent_s.items() if value} == {REST}


def test_runtimes_of_a_cpu_are_refused_elsewhere():
    with torch.device("meta"):
        network = DepthForge(load_variant(TINY / "tiny.yaml"))
    with pytest.raises(ValueError, match="'openvino_bf16' runs on a CPU; the device is meta"):
        prepare("openvino_bf16", network, 64, 64)
