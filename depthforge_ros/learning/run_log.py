# SPDX-License-Identifier: Apache-2.0
"""Log of a training run: log.jsonl, and curves for TensorBoard if requested."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG = "log.jsonl"
CURVES = "tensorboard"


class RunLog:
    """Writes a line of JSON a report to `folder`/log.jsonl; with `tensorboard`, curves too.

    Raise ValueError if TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self.folder = folder
        self._make_writer = _writer_class() if tensorboard else None
        self._writer: Any = None

    def trim(self, step: int) -> None:
        """Delete lines after `step`: a resumed run writes them again."""
        path = self.folder / LOG
        if not path.is_file():
            return
        kept = []
        for line in path.read_text("utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:
                continue  # cut off by the kill
        partial = path.with_name(f".{LOG}.{os.getpid()}.partial")
        partial.write_text("".join(kept), "utf-8")
        partial.replace(path)

    def has_validation(self, step: int) -> bool:
        """Return whether log.jsonl has a validation at `step`."""
        path = self.folder / LOG
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        reports = [json.loads(line) for line in lines]
        return any(
            report["step"] == step and any("/" in name for name in report) for report in reports
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append values by name at `step`. Raise OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._make_writer is not None:
            if self._writer is None:
                # What an earlier process reported from here on is not shown.
                self._writer = self._make_writer(str(self.folder / CURVES), purge_step=step)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ValueError(
            f"tensorboard is true, but Python module {error.name!r} is not installed: "
            "`pip install tensorboard`, or set it to false; log.jsonl holds the same numbers"
        ) from error
    return SummaryWriter
