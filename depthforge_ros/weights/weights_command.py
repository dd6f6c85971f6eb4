# SPDX-License-Identifier: Apache-2.0
"""The verb `depthforge weights`: list, fetch, convert, inspect."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from depthforge_ros.engine.load import ENCODERS_SUFFIX
from depthforge_ros.image_size import parse_size
from depthforge_ros.network.depthforge import ADAPTER_PARTS, frozen_parts
from depthforge_ros.network.weights import WeightsError, save_weights
from depthforge_ros.network.weights.files import open_weights
from depthforge_ros.resources import WEIGHTS_FOLDER, weights_folder
from depthforge_ros.variant import (
    PATCH,
    Variant,
    alternative_names,
    load_variant,
    variant_differences,
    variant_names,
)
from depthforge_ros.weights import catalogue, hub, inspection
from depthforge_ros.weights.convert import Conversion, convert

PUBLISHED = "published"
"""Subfolder of files as their authors publish them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `depthforge weights`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    list_ = _action(actions, "list", "list variants, their parts, sizes, licences and files")
    list_.add_argument("variants", nargs="*", metavar="VARIANT", help="only these")
    fetch = _action(actions, "fetch", "download a variant's published weights and convert them")
    fetch.add_argument("variant", metavar="VARIANT", help="name, or NAME+ALTERNATIVE")
    fetch.add_argument(
        "--accept-noncommercial",
        action="store_true",
        help="you will not use weights of a non-commercial licence commercially",
    )
    fetch.add_argument("--mirror", metavar="URL", help="folder on the web that has the same files")
    made = _action(actions, "convert", "published or authors' files into one of ours")
    made.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".pth or .safetensors")
    made.add_argument("--variant", required=True, help="of the network to be")
    made.add_argument(
        "--out", type=Path, metavar="FILE", help="to write (default: one in the folder)"
    )
    made.add_argument(
        "--stored-size",
        type=_size,
        metavar="WxH",
        help="image that position tables in the files are for, where it is not square",
    )
    made.add_argument("--half", action="store_true", help="store float16: half the size")
    look = _action(actions, "inspect", "what a file is, what it lacks, and its checksum")
    look.add_argument("file", type=Path, metavar="FILE", help=".pth or .safetensors")
    look.add_argument("--variant", help="to hold it against (default: whichever is nearest)")
    for action in (list_, fetch, made):
        action.add_argument(
            "--folder",
            type=Path,
            default=weights_folder(),
            help="of weights (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> int:
    """Run the action. Return 0, or 1 if an inspected file fits no variant."""
    return {"list": _list, "fetch": _fetch, "convert": _convert, "inspect": _inspect}[args.action](
        args
    )


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")


def _size(text: str) -> tuple[int, int]:
    """Return rows and columns of patches of an image WIDTHxHEIGHT."""
    try:
        width, height = parse_size(text, "the size")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if width % PATCH or height % PATCH:
        raise argparse.ArgumentTypeError(f"{text!r} is no multiple of {PATCH} pixels a side")
    return height // PATCH, width // PATCH


def _every_name() -> list[str]:
    """Return the shipped variants, each followed by its alternatives."""
    return [
        name
        for base in variant_names()
        for name in (base, *(f"{base}+{choice}" for choice in alternative_names(base)))
    ]


def _list(args: argparse.Namespace) -> int:
    names = args.variants or variant_names()
    rows = [row for name in names for row in catalogue.rows(load_variant(name), args.folder)]
    if not args.variants:
        others = {name: load_variant(name) for name in _every_name() if name not in names}
        published = [variant for variant in others.values() if variant.adapter is not None]
        for variant in published:
            rows += [row for row in catalogue.rows(variant, args.folder) if row.part == "adapter"]
        names = [name for name, variant in others.items() if variant not in published]
    print(catalogue.table(rows))
    if not args.variants:
        print(f"\nwith another encoder, head or adapter: {', '.join(names)}")
    print(f"folder: {args.folder}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    variant = load_variant(args.variant)
    needed = catalogue.sources(variant)
    if not needed:
        raise ValueError(
            f"nothing is published for variant {variant.name!r}: its encoders are ours"
        )
    parts = [name for part in needed for name in catalogue.exchanged_parts(variant)[part]]
    target = args.folder / f"{variant.name}{_suffix(variant, parts)}"
    if target.is_file() and _is_of(target, variant):
        print(f"{target} is there already")
        return 0
    closed = [
        f"{source.file} ({licence})"
        for source, licence in needed.values()
        if catalogue.is_noncommercial(licence)
    ]
    if closed and not args.accept_noncommercial:
        raise ValueError(
            f"{', '.join(closed)} may not be used commercially; --accept-noncommercial says that "
            "you will not"
        )
    files = []
    for part in variant.encoders:
        if part not in needed:
            print(f"{part}: not published by its authors")
    for part, (source, licence) in needed.items():
        size = "" if source.size_mb is None else f", {source.size_mb} MB"
        print(f"{part}: {source.file}{size}, {licence}", flush=True)
        url = f"{args.mirror.rstrip('/')}/{source.file}" if args.mirror else source.url
        files.append(args.folder / PUBLISHED / source.file)
        digest = hub.fetch(url, files[-1], source.sha256)
        if source.sha256 is None:
            print(f"{part}: SHA-256 {digest}; its authors publish none to compare with")
    _save(convert(variant, files), target)
    print(f"what was downloaded is kept in {args.folder / PUBLISHED} for variants that share it")
    if args.folder != weights_folder():
        print(f"other commands and the node find it with {WEIGHTS_FOLDER}={args.folder}")
    return 0


def _is_of(path: Path, variant: Variant) -> bool:
    try:
        stored = open_weights(path).variant
    except WeightsError:
        return False
    return stored is not None and not variant_differences(stored, variant)


def _convert(args: argparse.Namespace) -> int:
    variant = load_variant(args.variant)
    made = convert(variant, args.files, args.stored_size)
    target = args.out or args.folder / f"{variant.name}{_suffix(variant, tuple(made.made_from))}"
    if target.suffix != ".safetensors":
        raise ValueError(f"--out is {target}; expected a name that ends in .safetensors")
    if target.exists():
        raise ValueError(f"{target} is there already; remove it, or name another with --out")
    _save(made.halved() if args.half else made, target)
    return 0


def _suffix(variant: Variant, parts: Sequence[str]) -> str:
    frozen = frozen_parts(variant)
    if set(parts) == {*frozen, *ADAPTER_PARTS}:
        return ".safetensors"
    if set(parts) == set(frozen):
        return ENCODERS_SUFFIX
    if set(parts) == set(ADAPTER_PARTS):
        return ".adapter.safetensors"
    return f".{'-'.join(parts)}.safetensors"


def _save(made: Conversion, target: Path) -> None:
    save_weights(made.state, made.variant, target, made.notes())
    for part, source in made.made_from.items():
        print(f"{part} from {source}")
    print(f"written: {target}")
    if made.trained_crop not in (None, made.variant.crop):
        print(
            f"the adapter was trained with crops of {made.trained_crop} px; variant "
            f"{made.variant.name!r} has {made.variant.crop}"
        )
    for part, size in made.variant.encoders.items():
        if part in made.made_from and catalogue.is_noncommercial(size.licence):
            print(f"{part} is {size.licence}: not for commercial use")
    if set(made.made_from) == set(frozen_parts(made.variant)):
        print(
            "encoders alone make no masks: join them with a trained adapter, as "
            f"--checkpoint {target},ADAPTER.safetensors or by `depthforge weights convert`"
        )


def _inspect(args: argparse.Namespace) -> int:
    names = [args.variant] if args.variant else _every_name()
    # Published adapters have the shapes of `+rein`.
    variants = [v for v in map(load_variant, names) if args.variant or v.adapter is None]
    report = inspection.inspect(args.file, variants)
    print(inspection.text(report))
    return 0 if report.fits and not report.not_finite else 1
