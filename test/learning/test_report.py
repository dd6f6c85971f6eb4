# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation: groups by origin, their means, and the picture."""

import math
from dataclasses import replace

import numpy as np
import pytest

from depthforge_ros.learning.config import SPLITS, DatasetKind, DatasetSettings, Origin
from depthforge_ros.learning.metrics import DepthScores
from depthforge_ros.learning.report import Report, as_json, draw_report, markdown, means_of
from depthforge_ros.learning.scoring import DatasetScores, Protocol, Reliability, Scores
from depthforge_ros.pipeline import PipelineSettings


def scores_of(miou: float, depth: DepthScores | None = None) -> Scores:
    reliability = Reliability((0.5, 0.5), (0.25, 0.75), (0.3, math.nan))
    return Scores(1, 10, miou, 0.5, (miou,), 0.1, reliability, depth)


def dataset(
    name: str, origin: Origin, miou: float, depth: DepthScores | None = None
) -> DatasetScores:
    return DatasetScores(name, origin, ("road",), scores_of(miou, depth), {}, False, ())


def report_of(*datasets: DatasetScores) -> Report:
    return Report(
        variant="nano",
        protocol=Protocol.FRAME,
        version="0",
        sha256={},
        checkpoint="shipped",
        backend="eager",
        precision="fp32",
        device="cpu",
        settings=PipelineSettings(),
        datasets=datasets,
    )


def test_means_stay_within_one_origin() -> None:
    street = dataset("street", Origin.RENDERED, 0.9, DepthScores(4, 0.1, 2.0, 0.8, 1.0))
    gta5 = dataset("gta5", Origin.RENDERED, 0.7)
    camvid = dataset("camvid", Origin.REAL, 0.5)
    acdc = dataset("acdc", Origin.REAL, 0.2)
    unlabelled = dataset("acdc test", Origin.REAL, math.nan)
    dark = dataset("camvid camvid_night", Origin.ALTERED, 0.4)
    report = report_of(street, camvid, gta5, dark, acdc, unlabelled)
    written = as_json(report)
    assert list(written["origins"]) == ["real", "altered", "rendered"]
    assert "mean_miou" not in written  # no figure over all data sets
    real, rendered = written["origins"]["real"], written["origins"]["rendered"]
    assert (real["miou"], rendered["miou"]) == (pytest.approx(0.35), pytest.approx(0.8))
    assert (real["datasets"], real["images"]) == (["camvid", "acdc", "acdc test"], 3)
    assert real["depth"] is None
    assert rendered["depth"]["abs_rel"] == pytest.approx(0.1)  # of the one that has depth
    assert written["origins"]["altered"]["miou"] == pytest.approx(0.4)
    assert [one["origin"] for one in written["datasets"][:2]] == ["rendered", "real"]
    text = markdown(report)
    sections = {part.split("\n")[0]: part for part in text.split("\n## ")[1:4]}
    assert list(sections) == ["Real images", "Real images, altered by a program", "Rendered images"]
    assert "| mean of 3 data sets | 3 | 35.0 | 50.0 | 10.0 |" in sections["Real images"]
    assert "| mean of 2 data sets | 2 | 80.0 | 50.0 | 10.0 | 0.100 |" in sections["Rendered images"]
    assert "mean" not in sections["Real images, altered by a program"]
    assert text.count("mean of") == 2
    with pytest.raises(ValueError, match=r"\['rendered', 'real'\]; expected one origin"):
        means_of([street, camvid])


@pytest.mark.parametrize("kind", DatasetKind)
def test_every_kind_of_data_set_has_an_origin(kind: DatasetKind) -> None:
    rendered = {"gta5", "synthia", "urbansyn", "street", "street_held_out"}
    settings = DatasetSettings(kind, split=SPLITS.get(kind, ("",))[0])
    expected = Origin.RENDERED if kind.value in rendered else Origin.REAL
    assert settings.image_origin() is expected
    if expected is Origin.REAL:
        assert replace(settings, origin=Origin.ALTERED).image_origin() is Origin.ALTERED
    else:
        with pytest.raises(ValueError, match=f"origin of {kind.value} is 'real'; expected 'rend"):
            replace(settings, origin=Origin.REAL)


def test_the_picture_has_a_bar_as_long_as_every_miou_and_the_quoted_one() -> None:
    conditions = {"fog": scores_of(0.2), "night": scores_of(0.6)}
    one = DatasetScores("acdc", Origin.REAL, ("road",), scores_of(0.7), conditions, False, (), True)
    assert one.miou == pytest.approx(0.4)
    other = dataset("own", Origin.RENDERED, math.nan)
    left, right = draw_report([other, one]).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([40, 20, 60, 0])
    names = [tick.get_text() for tick in left.get_yticklabels()]
    assert names == [
        "real, acdc: all (1)",
        "real, acdc: fog (1)",
        "real, acdc: night (1)",
        "rendered, own: all (1)",
    ]
    np.testing.assert_allclose(right.lines[0].get_xydata()[0], (0.25, 0.3))
