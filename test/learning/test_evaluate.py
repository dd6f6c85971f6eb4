# SPDX-License-Identifier: Apache-2.0
"""`depthforge evaluate`: figures against scikit-learn and numpy, through the real pipeline."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from looking_glass import TINY, LookingGlass
from PIL import Image
from sklearn.metrics import jaccard_score

from depthforge_ros import cli
from depthforge_ros.engine import CropOutput, build_engine
from depthforge_ros.frame import DepthKind, Frame, Prediction
from depthforge_ros.learning import label_ids
from depthforge_ros.learning.config import SPLITS, DatasetKind, DatasetSettings
from depthforge_ros.learning.samples import Sample
from depthforge_ros.learning.scoring import (
    Protocol,
    Tally,
    halved,
    paper_view,
    score_dataset,
    source_of,
)
from depthforge_ros.pipeline import Pipeline, PipelineSettings
from depthforge_ros.resources import code_version
from depthforge_ros.street import CONDITIONS, HELD_OUT_SEEDS
from depthforge_ros.variant import load_variant

HEIGHT, WIDTH = 60, 80


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_pair(image: Path, label: Path, seed: int, ids: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    assert cv2.imwrite(str(image), rgb)
    labels = np.kron(rng.integers(0, ids, (6, 8)), np.ones((10, 10))).astype(np.uint8)
    Image.fromarray(labels).save(label)
    return labels


def write_camvid(root: Path) -> np.ndarray:
    labels = [
        write_pair(root / f"images/{name}.png", root / f"labels/{name}.png", seed, 12)
        for seed, name in enumerate(("0006R0_1", "0006R0_2", "0016E5_1"))
    ]
    for path in (root / "images").glob("*.png"):  # the data set has JPEG images
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
    return np.stack(labels)


def test_figures_of_random_predictions_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    tally, truths, guesses = Tally(19), [], []
    for _ in range(3):
        truth = rng.integers(0, 20, (HEIGHT, WIDTH)).astype(np.uint8)
        truth[truth == 19] = 255
        guess = np.where(rng.random(truth.shape) < 0.5, truth % 19, rng.integers(0, 19)).astype(
            np.uint8
        )
        confidence = rng.integers(0, 256, truth.shape).astype(np.uint8)
        sample = Sample(np.zeros((HEIGHT, WIDTH, 3), np.uint8), truth, None, "d", "night", "n")
        tally.add(sample, Prediction(guess, confidence, None, DepthKind.METRIC), None)
        truths.append(truth[truth != 255])
        guesses.append(guess[truth != 255])
    true, guess = np.concatenate(truths), np.concatenate(guesses)
    scores = tally.scores()
    assert abs(scores.miou - jaccard_score(true, guess, average="macro")) < 1e-9
    np.testing.assert_allclose(scores.iou, jaccard_score(true, guess, average=None), atol=1e-9)
    assert scores.pixel_accuracy == pytest.approx((true == guess).mean(), abs=1e-12)
    assert (scores.images, scores.pixels) == (3, true.size)
    assert sum(scores.reliability.share) == pytest.approx(1.0)
    assert scores.depth is None


def test_camvid_is_scored_in_its_own_classes(tmp_path: Path):
    labels = write_camvid(tmp_path / "camvid")
    settings = DatasetSettings(DatasetKind.CAMVID, tmp_path / "camvid", only=("0006R0",))
    pipeline = Pipeline(build_engine(load_variant("nano"), "instant"))
    scores = score_dataset(pipeline, settings)
    truth = labels[:2]
    half = np.zeros((HEIGHT, WIDTH), int)  # the instant engine sees sky above road
    half[HEIGHT // 2 :] = label_ids.CAMVID_CLASSES.names.index("road")
    guess = np.broadcast_to(half, truth.shape)[truth != 11]
    expected = jaccard_score(truth[truth != 11], guess, average=None, labels=range(11))
    np.testing.assert_allclose(scores.scores.iou, expected, atol=1e-9)
    assert scores.classes == label_ids.CAMVID_CLASSES.names
    assert list(scores.conditions) == ["clear"]
    assert scores.scores.images == 2
    # Sure by 0.9 everywhere, which is 230 of 255.
    accuracy = (guess == truth[truth != 11]).mean()
    assert scores.scores.calibration_error == pytest.approx(abs(230 / 255 - accuracy), abs=1e-9)


def test_held_out_streets_show_each_seed_in_every_condition():
    settings = DatasetSettings(DatasetKind.STREET_HELD_OUT, frames=2)
    source = source_of(settings)
    assert len(source) == 2 * len(CONDITIONS)
    samples = [source[index] for index in (1, 2)]
    assert [sample.condition for sample in samples] == list(CONDITIONS[1:3])
    assert [sample.name for sample in samples] == [f"{HELD_OUT_SEEDS[0]:08d}/0"] * 2
    np.testing.assert_array_equal(samples[0].labels, samples[1].labels)
    np.testing.assert_array_equal(samples[0].depth_m, samples[1].depth_m)
    assert (samples[0].rgb != samples[1].rgb).any()
    only = source_of(DatasetSettings(DatasetKind.STREET_HELD_OUT, frames=3, only=("night",)))
    assert len(only) == 3
    assert only.conditions == ("night",)


def test_what_is_measured_is_what_the_pipeline_answers():
    settings = DatasetSettings(DatasetKind.STREET_HELD_OUT, frames=1, only=("snow", "night"))
    pipeline = Pipeline(
        build_engine(load_variant("nano"), "untrained"), PipelineSettings(short_side_px=96)
    )
    measured = score_dataset(pipeline, settings)
    source = source_of(settings)
    for index, condition in enumerate(("snow", "night")):
        sample = source[index]
        prediction = pipeline(Frame(sample.rgb, focal_px=sample.focal_px))
        known = sample.labels != 255
        accuracy = (prediction.labels == sample.labels)[known].mean()
        scores = measured.conditions[condition]
        assert scores.pixel_accuracy == pytest.approx(accuracy, abs=1e-12)
        near = np.isfinite(sample.depth_m) & (sample.depth_m <= 80) & ~np.isnan(prediction.depth)
        depth = prediction.depth[near].astype(float).clip(1e-3, 80)
        error = np.mean(np.abs(depth - sample.depth_m[near]) / sample.depth_m[near])
        assert scores.depth.abs_rel == pytest.approx(error, rel=1e-6)
    both = [measured.conditions[name].depth.abs_rel for name in ("snow", "night")]
    assert measured.scores.depth.abs_rel == pytest.approx(np.mean(both))
    assert measured.same_content


def test_the_command_writes_json_markdown_and_a_picture(tmp_path: Path, capsys):
    write_camvid(tmp_path / "camvid")
    for seed, condition in enumerate(("night", "snow", "snow")):
        name = f"val/{condition}/{seed}.png"
        write_pair(tmp_path / "own/images" / name, tmp_path / "own/labels" / name, seed, 19)
    (tmp_path / "own/images/val/snow/2.png").write_bytes(b"cut off")
    (tmp_path / "more.yaml").write_text("data: [{kind: folder, root: own, split: val}]\n")
    command = "evaluate --checkpoint instant --data camvid:camvid --only 0006R0,0016E5"
    assert cli.main([*command.split(), "--config", "more.yaml", "--out", "out"]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    camvid, own = report["datasets"]
    assert (camvid["name"], camvid["images"]) == ("camvid 0006R0,0016E5", 3)
    assert set(camvid["iou"]) == set(label_ids.CAMVID_CLASSES.names)
    assert {name: scores["images"] for name, scores in own["conditions"].items()} == {
        "night": 1,
        "snow": 1,
    }
    assert len(own["skipped"]) == 1
    assert "own/images/val/snow/2.png" in own["skipped"][0]
    assert report["origins"]["real"]["miou"] == pytest.approx((camvid["miou"] + own["miou"]) / 2)
    assert (camvid["depth"], own["same_content_in_every_condition"]) == (None, False)
    text = (tmp_path / "out/report.md").read_text("utf-8")
    assert text in capsys.readouterr().out
    assert f"| camvid 0006R0,0016E5 | 3 | {100 * camvid['miou']:.1f} |" in text
    assert f"| snow | 1 | {100 * own['conditions']['snow']['miou']:.1f} |" in text
    assert "1 images could not be read" in text
    picture = cv2.imread(str(tmp_path / "out/report.png"))
    assert (picture == (180, 119, 31)).all(-1).any()  # the first data set is blue
    assert report["checkpoint_sha256"] == {}
    assert (report["protocol"], report["code_version"]) == ("frame", code_version())
    assert "Protocol frame: mode whole, short side the variant's crop. Code 0." in text
    assert not list((tmp_path / "out").glob(".*"))


def test_the_command_separates_photographs_altered_copies_and_streets(tmp_path: Path) -> None:
    for folder in ("camvid", "camvid_night"):
        write_camvid(tmp_path / folder)
    command = (
        "evaluate --checkpoint instant --data street_held_out --frames 1 --only night "
        "--data camvid:camvid --data camvid:camvid_night --origin altered --out out"
    )
    assert cli.main(command.split()) == 0
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert [(one["name"], one["origin"]) for one in report["datasets"]] == [
        ("street_held_out night", "rendered"),
        ("camvid", "real"),
        ("camvid camvid_night", "altered"),
    ]
    for one in report["datasets"]:
        assert report["origins"][one["origin"]]["miou"] == one["quoted_miou"]


class Plain(LookingGlass):
    """An engine of a variant with two classes and large windows; it keeps its input."""

    def __init__(self, crop: int, stride: int) -> None:
        labels = replace(TINY.labels, classes=TINY.labels.classes[:2])
        super().__init__(replace(TINY, crop=crop, stride=stride, labels=labels))
        self.crops: list[torch.Tensor] = []

    def __call__(self, crops: torch.Tensor, *, depth: bool) -> CropOutput:
        self.crops.append(crops)
        return super().__call__(crops, depth=depth)


@pytest.mark.parametrize(
    ("kind", "size", "crop", "inferred", "windows"),
    [
        (DatasetKind.CITYSCAPES, (1024, 2048), 512, (512, 1024), 3),
        (DatasetKind.BDD100K, (720, 1280), 512, (720, 1280), 2 * 4),
        (DatasetKind.ACDC, (1080, 1920), 512, (540, 960), 2 * 3),
        (DatasetKind.MAPILLARY, (1500, 2000), 512, (512, 683), 2),
        (DatasetKind.CITYSCAPES, (1024, 2048), 1024, (1024, 2048), 3),
        (DatasetKind.ACDC, (1080, 1920), 1024, (1080, 1920), 2 * 3),
    ],
)
def test_the_papers_protocol_infers_windows_at_its_own_sizes(
    kind: DatasetKind,
    size: tuple[int, int],
    crop: int,
    inferred: tuple[int, int],
    windows: int,
) -> None:
    engine = Plain(crop, {512: 341, 1024: 683}[crop])
    pipeline = Pipeline(engine)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size[0] // 20, size[1] // 20, 3), dtype=np.uint8)
    rgb = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    labels = np.zeros(size, np.uint8)
    view = paper_view(pipeline, DatasetSettings(kind, split=SPLITS[kind][1]))
    sample, settings = view(Sample(rgb, labels, None, "d", "clear", "n"))
    halves = 2 if kind is DatasetKind.MAPILLARY else 1
    assert sample.labels.shape == (size[0] // halves, size[1] // halves)
    predicted = pipeline.batch([Frame(sample.rgb)], [False], settings)[0]
    assert predicted.labels.shape == sample.labels.shape
    crops = torch.cat(engine.crops)
    assert len(crops) == windows
    # OpenCV's bilinear resize, which mmcv calls: no antialiasing.
    expected = cv2.resize(sample.rgb, inferred[::-1], interpolation=cv2.INTER_LINEAR)
    first = crops[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(first - expected[:crop, :crop]).max() <= 1


def test_mapillary_is_halved_as_the_authors_store_it() -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (41, 64, 3), dtype=np.uint8)
    labels = rng.integers(0, 19, (41, 64)).astype(np.uint8)
    half = halved(Sample(rgb, labels, None, "mapillary", "mixed", "n"))
    assert half.rgb.shape == (20, 32, 3)
    stored = io.BytesIO()
    Image.fromarray(rgb).resize((32, 20), resample=Image.BICUBIC).save(stored, "jpeg")
    np.testing.assert_array_equal(half.rgb, np.asarray(Image.open(stored)))
    np.testing.assert_array_equal(half.labels[:, 3], labels[1::2, 7][:20])


def write_acdc(root: Path, split: str) -> dict[str, np.ndarray]:
    labels = {}
    for seed, condition in enumerate(("fog", "night", "rain", "snow")):
        stem = f"GOPR{seed}/GOPR{seed}_frame_000001"
        labels[condition] = write_pair(
            root / f"rgb_anon/{condition}/{split}/{stem}_rgb_anon.png",
            root / f"gt/{condition}/{split}/{stem}_gt_labelTrainIds.png",
            seed,
            19,
        )
    return labels


def test_acdcs_figure_is_the_mean_of_its_conditions(tmp_path: Path) -> None:
    write_acdc(tmp_path, "val")
    settings = DatasetSettings(DatasetKind.ACDC, tmp_path, split="val")
    engine = LookingGlass(replace(TINY, crop=512, stride=341))
    scores = score_dataset(Pipeline(engine), settings, protocol=Protocol.PAPER)
    conditions = [one.miou for one in scores.conditions.values()]
    assert len(conditions) == 4
    assert scores.miou == pytest.approx(np.mean(conditions), abs=1e-12)
    assert scores.miou != pytest.approx(scores.scores.miou, abs=1e-3)
    with pytest.raises(ValueError, match=r"no test of gta5 with windows of 512 px .*cityscapes"):
        score_dataset(
            Pipeline(Plain(512, 341)), DatasetSettings(DatasetKind.GTA5), protocol=Protocol.PAPER
        )
    with pytest.raises(ValueError, match=r"no test of acdc with windows of 64 px \(variant 'tiny'"):
        score_dataset(Pipeline(LookingGlass()), settings, protocol=Protocol.PAPER)


def test_masks_of_acdcs_test_set_are_files_for_its_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_acdc(tmp_path / "acdc", "test")
    command = "evaluate --checkpoint instant --data acdc:acdc --split test"
    assert cli.main(command.split()) == 2
    assert "split test of acdc has no labels; give --predictions" in capsys.readouterr().err
    assert cli.main([*command.split(), "--predictions", "masks"]) == 0
    files = sorted((tmp_path / "masks").rglob("*.png"))
    assert [file.name for file in files] == [
        f"GOPR{index}_frame_000001_rgb_anon.png" for index in range(4)
    ]
    rgb = cv2.imread(
        str(tmp_path / "acdc/rgb_anon/night/test/GOPR1/GOPR1_frame_000001_rgb_anon.png")
    )
    pipeline = Pipeline(build_engine(load_variant("nano"), "instant"))
    expected = pipeline(Frame(cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB)), depth=False).labels
    with Image.open(files[1]) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), expected)
    report = json.loads((tmp_path / "evaluation/report.json").read_text("utf-8"))
    assert report["datasets"][0]["quoted_miou"] is None


def test_the_papers_protocol_chooses_mode_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    command = "evaluate --data street_held_out --protocol paper --mode slide"
    assert cli.main(command.split()) == 2
    assert "--protocol paper fixes --mode and --short-side" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no data set; give one with --data"),
        ("--data cityscape:x", "kind is 'cityscape'; expected one of"),
        ("--data camvid:x --split val", "split of camvid is 'val'; expected none"),
        ("--data bdd100k:x --split test", "split of bdd100k is 'test'; expected train or val"),
        ("--data gta5:x --origin real", "origin of gta5 is 'real'; expected 'rendered'"),
        ("--data gta5:x --only a", "only is ['a'], but gta5 has no parts"),
        ("--data bdd100k:x", "\n  images/10k/val/NAME.jpg\n"),
        ("--data street_held_out --frames 0", "held-out streets are 0; expected 1.."),
        ("--data street_held_out --only hail", "street conditions are ('hail',)"),
        ("--data street_held_out --limit 0", "--limit is 0; expected at least 1"),
        ("--config none.yaml", "no configuration at none.yaml"),
    ],
)
def test_bad_input_is_refused_with_what_was_wanted(arguments: str, message: str, capsys):
    assert cli.main(["evaluate", "--checkpoint", "instant", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_an_option_of_a_data_set_needs_one_before_it(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--frames", "3", "--data", "street_held_out"])
    assert (
        "--frames applies to a --data before it; expected --data first" in capsys.readouterr().err
    )


def test_a_limit_takes_images_evenly_and_streets_whole(tmp_path: Path):
    write_camvid(tmp_path / "camvid")
    pipeline = Pipeline(build_engine(load_variant("nano"), "instant"))
    scores = score_dataset(
        pipeline, DatasetSettings(DatasetKind.CAMVID, tmp_path / "camvid"), limit=2
    )
    assert scores.scores.images == 2
    streets = DatasetSettings(DatasetKind.STREET_HELD_OUT, frames=5, only=("fog", "rain"))
    scores = score_dataset(pipeline, streets, limit=1)
    assert {name: one.images for name, one in scores.conditions.items()} == {"fog": 1, "rain": 1}
    assert math.isfinite(scores.scores.depth.rmse_m)
