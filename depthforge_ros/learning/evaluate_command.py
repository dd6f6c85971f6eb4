# SPDX-License-Identifier: Apache-2.0
"""`depthforge evaluate`: the figures to quote, from the Pipeline that the node runs.

    depthforge evaluate --data street_held_out --frames 60 --data camvid:datasets/camvid \
        --only 0006R0 --out evaluation
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthforge_ros import dataclass_yaml
from depthforge_ros.learning.config import SPLITS, DatasetKind, DatasetSettings, Origin
from depthforge_ros.network_arguments import add_inference, add_network
from depthforge_ros.resources import code_version, sha256_of


@dataclass(frozen=True)
class EvaluationData:
    """A yaml file of data sets: `data` is a list like `validate` of a training configuration."""

    data: tuple[DatasetSettings, ...]


class _OfDataset(argparse.Action):
    """--data adds a data set; --split, --only, --frames and so on apply to the last one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        sets: list[dict[str, Any]] = list(getattr(namespace, "data", None) or [])
        if self.dest == "data":
            kind, _, root = values.partition(":")
            sets.append({"kind": kind} | ({"root": root} if root else {}))
        elif not sets:
            parser.error(f"{option_string} applies to a --data before it; expected --data first")
        else:
            value = tuple(values.split(",")) if self.dest == "only" else values
            sets[-1] = sets[-1] | {self.dest: value}
        namespace.data = sets


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    kinds = ", ".join(kind.value for kind in DatasetKind)
    more = argparse.SUPPRESS  # their values are kept with the data set
    add_network(parser)
    parser.add_argument(
        "--data",
        action=_OfDataset,
        metavar="KIND[:FOLDER]",
        help=f"a data set, may be given several times; kinds: {kinds}",
    )
    parser.add_argument(
        "--split", action=_OfDataset, default=more, help="of the --data before; its validation one"
    )
    parser.add_argument(
        "--only",
        action=_OfDataset,
        default=more,
        metavar="A,B",
        help="of the --data before: conditions, or sequences of camvid",
    )
    parser.add_argument(
        "--frames",
        action=_OfDataset,
        default=more,
        type=int,
        help="held-out streets of the --data before, each under every condition",
    )
    parser.add_argument(
        "--mapping",
        action=_OfDataset,
        default=more,
        help="of the --data before, mapillary: paper, robustnet or v2",
    )
    parser.add_argument(
        "--origin",
        action=_OfDataset,
        default=more,
        choices=[origin.value for origin in Origin],
        help="of the --data before: an own folder of rendered images, or photographs that a "
        "program altered; without it, own folders count as real",
    )
    parser.add_argument(
        "--config", type=Path, help="yaml file with more data sets, as a list `data`"
    )
    parser.add_argument(
        "--limit", type=int, help="at most so many images of a data set, evenly spread"
    )
    parser.add_argument(
        "--protocol",
        choices=("frame", "paper"),
        default="frame",
        help="frame: as the node runs; paper: the sizes, windows and means of DepthForge's authors",
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FOLDER", help="write a mask of trainIds of every image"
    )
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder to write")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    add_inference(parser, mode=None)


def run(args: argparse.Namespace) -> int:
    """Evaluate, write report.json, report.md and report.png into --out, and print the figures."""
    from depthforge_ros.engine import build_engine
    from depthforge_ros.engine.load import INSTANT, UNTRAINED, checkpoint_files
    from depthforge_ros.learning.report import Report, write_report
    from depthforge_ros.learning.scoring import Protocol, score_dataset
    from depthforge_ros.pipeline import Mode, Pipeline, PipelineSettings
    from depthforge_ros.variant import load_variant

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; expected at least 1")
    protocol = Protocol(args.protocol)
    if protocol is Protocol.PAPER and (args.mode or args.short_side):
        raise ValueError("--protocol paper fixes --mode and --short-side; leave them out")
    data = datasets_of(args.data or (), args.config)
    unlabelled = [one.kind.value for one in data if one.split == "test"]
    if unlabelled and args.predictions is None:
        raise ValueError(f"split test of {unlabelled[0]} has no labels; give --predictions FOLDER")
    settings = PipelineSettings(mode=Mode(args.mode or "whole"), short_side_px=args.short_side)
    variant = load_variant(args.variant)
    engine = build_engine(variant, args.checkpoint, device=args.device, precision=args.precision)
    files = (
        []
        if args.checkpoint in (INSTANT, UNTRAINED)
        else checkpoint_files(variant, args.checkpoint)
    )
    pipeline = Pipeline(engine, settings)
    scores = tuple(
        score_dataset(pipeline, one, args.limit, protocol, args.predictions) for one in data
    )
    report = Report(
        protocol=protocol,
        version=code_version(),
        sha256={path.name: sha256_of(path) for path in files},
        variant=engine.variant.name,
        checkpoint=args.checkpoint or "shipped",
        backend=engine.backend,
        precision=engine.precision,
        device=engine.device.type,
        settings=settings,
        datasets=scores,
    )
    print(write_report(report, args.out))
    print(f"written: {args.out}/report.json, report.md, report.png")
    if args.predictions is not None:
        print(f"written: masks of trainIds below {args.predictions}")
    return 0


def datasets_of(
    given: Sequence[dict[str, Any]], config: Path | None
) -> tuple[DatasetSettings, ...]:
    """Return the data sets of the command line and of the yaml file.

    Raise ValueError if there are none, or one of them is invalid.
    """
    data = tuple(
        dataclass_yaml.build(DatasetSettings, _with_split(entry), f"--data {entry['kind']}", {})
        for entry in given
    )
    if config is not None:
        if not config.is_file():
            raise ValueError(f"no configuration at {config}")
        data += dataclass_yaml.read_yaml(config, EvaluationData, {}).data
    if not data:
        raise ValueError("no data set; give one with --data, or some with --config")
    return data


def _with_split(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the entry with its validation split if the command line names none."""
    for kind, splits in SPLITS.items():
        if kind.value == entry["kind"]:
            return {"split": splits[1], **entry}
    return entry
