# SPDX-License-Identifier: Apache-2.0
"""Many bags into a folder, by any number of processes: each bag is written once.

There is no coordinator. Each process goes through the same list and takes the next bag that neither
exists nor is locked (resumable_writer.py). A process that dies leaves no lock.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from depthforge_ros.interrupt import on_signals
from depthforge_ros.ros.bags.annotation import Summary
from depthforge_ros.ros.bags.layout import METADATA, STORAGE_SUFFIXES, is_bag, split_files
from depthforge_ros.ros.bags.resumable_writer import ExistsError, TakenError
from depthforge_ros.ros.bags.topic import BagError

DONE, FAILED, PARTIAL, BUSY, INTERRUPTED = 0, 1, 3, 75, 130
"""Exit status: all bags exist and are whole; one cannot be made; one lacks what could not be read;
another process still writes one (EX_TEMPFAIL of sysexits.h); interrupted."""


@dataclass(frozen=True)
class Work:
    """One bag to read, and where its annotated bag goes."""

    source: Path
    target: Path


Annotate = Callable[[Work], Summary]


def find_work(paths: Sequence[Path], into: Path) -> list[Work]:
    """Return every bag of `paths`, bags or folders with bags below, in the order of their names.

    A bag keeps its name in `into`, and what lies between it and the folder that was named. Raises
    ValueError if a path holds no bag, or two bags would have one name.
    """
    named: dict[Path, Path] = {}
    for path in paths:
        found = dict(_bags_of(path, into.resolve()))
        if not found:
            raise ValueError(f"no bag at {path} or below it")
        for name, source in found.items():
            if named.setdefault(name, source) != source:
                raise ValueError(f"{named[name]} and {source} would both become {into / name}")
    return [Work(named[name], into / name) for name in sorted(named)]


def _bags_of(path: Path, into: Path) -> Iterator[tuple[Path, Path]]:
    """Name and place of every bag at or below a path."""
    if is_bag(path):
        yield _name(Path(path.resolve().name)), path
        return
    for below in sorted(
        [*path.rglob(METADATA), *(f for s in STORAGE_SUFFIXES for f in path.rglob(f"*{s}"))]
    ):
        parts = [] if (below.parent / METADATA).exists() else split_files(below.parent)
        in_folder = below.name == METADATA or below in parts[:1]
        bag = below.parent if in_folder else below
        unfinished = any(part.endswith(".partial") for part in bag.relative_to(path).parts)
        part_of_bag = bag is below and (bool(parts) or (below.parent / METADATA).exists())
        if not (unfinished or part_of_bag or into in bag.resolve().parents):
            yield _name(bag.relative_to(path)), bag


def _name(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in (".mcap", ".db3") else path


def shard_of(work: Sequence[Work], shard: str) -> list[Work]:
    """Return the part `i/n` of a list, i from 1 to n. Raises ValueError."""
    try:
        index, count = (int(number) for number in shard.split("/"))
    except ValueError:
        index = count = 0
    if not 1 <= index <= count:
        raise ValueError(f"--shard is {shard!r}; expected i/n with i from 1 to n, such as 2/8")
    return list(work[index - 1 :: count])


def annotate_here(work: Sequence[Work], annotate: Annotate) -> int:
    """Annotate the bags that do not exist yet, print a line for each, and return the exit status.

    A bag that cannot be read is named on stderr and left out. If writing fails the rest is not
    tried: a full disk is full for the next bag as well.
    """
    statuses = {DONE}
    for item in work:
        try:
            summary = annotate(item)
        except ExistsError as error:
            statuses.add(_report_existing(item, error))
        except TakenError:
            _say(f"{item.target}: another process writes it")
            statuses.add(BUSY)
        except BagError as error:
            _say(f"{item.source}: {error}", sys.stderr)
            statuses.add(FAILED)
        except (OSError, sqlite3.Error) as error:
            _say(f"writing {item.target} failed: {error}", sys.stderr)
            return FAILED
        else:
            if not summary.finished:
                _say(f"{item.target}: stopped; the same command goes on from there")
                return INTERRUPTED
            _say(f"{item.target}: {summary.describe()}")
            for text in summary.losses:
                _say(f"{item.target}: {text}", sys.stderr)
            statuses.add(DONE if summary.complete else PARTIAL)
    return worst(statuses)


def _report_existing(item: Work, error: ExistsError) -> int:
    if error.difference:
        _say(f"{item.target} exists, but was made differently: {error.difference}", sys.stderr)
        return FAILED
    _say(f"{item.target}: exists already")
    for text in error.losses:
        _say(f"{item.target}: {text}", sys.stderr)
    return PARTIAL if error.losses else DONE


def _say(text: str, stream: TextIO | None = None) -> None:
    """Print a line on stdout or another stream by one write. Unbuffered, `print` takes two, and
    lines of two workers would run into each other.
    """
    stream = stream or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def worst(statuses: set[int]) -> int:
    """Return the one exit status of several processes or bags; an unknown one is a failure."""
    order = (INTERRUPTED, FAILED, BUSY, PARTIAL, DONE)
    known = {status if status in order else FAILED for status in statuses}
    return next(status for status in order if status in known)


def annotate_with_workers(
    work: Sequence[Work], workers: int, start: Callable[[Sequence[Work]], int]
) -> int:
    """Run `start(work)` in so many processes and return the exit status of all together.

    start: importable, for a spawned process; returns the status of `annotate_here`. Each worker
    begins at another place of the list, so that they rarely compete.
    """
    if not work:
        return DONE
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(work))
    starts = (number * len(work) // workers for number in range(workers))
    processes = [
        context.Process(target=_exit_with, args=(start, [*work[at:], *work[:at]])) for at in starts
    ]
    with _passing_signals_on(processes) as received:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if received:
        return INTERRUPTED
    statuses: set[int] = set()
    for process in processes:
        if process.exitcode not in (DONE, FAILED, PARTIAL, BUSY, INTERRUPTED):
            _say(f"a worker ended with status {process.exitcode}", sys.stderr)
        statuses.add(FAILED if process.exitcode is None else process.exitcode)
    if all(item.target.exists() for item in work):
        statuses.discard(BUSY)  # with what another of these workers had in hand
    return worst(statuses or {DONE})


def _exit_with(start: Callable[[Sequence[Work]], int], work: Sequence[Work]) -> None:
    try:
        sys.exit(start(work))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        _say(f"depthforge annotate: {error}", sys.stderr)
        sys.exit(FAILED)


@contextmanager
def _passing_signals_on(processes: Sequence) -> Iterator[list[int]]:
    """A list of the signals that came, each of which went to the processes as well."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        for process in processes:
            if process.pid is not None and process.is_alive():
                process.terminate()

    with on_signals(handle):
        yield received
