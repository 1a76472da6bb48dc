"""Scans by other scores than the maximum: against a plain loop, on disk, and in pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import same_bits
from nets import plain
from oracles import output, strongest_by
from samples import Samples, same_scan, scanned
from torch import Tensor, nn

from featviz import Scan, check, cli, figures, gallery, open_images, project_exemplars, scan
from featviz.errors import NumberError, RecordError, UsageError
from featviz.records._progress import checksum

FUNCTIONS: dict[str, Any] = {
    "max": lambda plane: max(plane),
    "mean": lambda plane: sum(plane) / len(plane),
    "sum": lambda plane: sum(plane),
    "l2": lambda plane: sum(value * value for value in plane) ** 0.5,
    "quantile:0.9": lambda plane: sorted(plane)[-(-9 * (len(plane) - 1) // 10)],
}


@pytest.mark.parametrize("layer", ["0", "3"])
@pytest.mark.parametrize("score", FUNCTIONS)
def test_exemplars_are_those_of_a_plain_loop(score: str, layer: str) -> None:
    result = scanned(layers=[layer], score=score)
    top = result[layer].top
    data = Samples()
    maps = torch.stack([output(plain(), layer, data[i]) for i in range(len(data))])
    for channel in range(maps.shape[1]):
        expected = strongest_by(FUNCTIONS[score], maps[:, channel], 4)
        assert top.images[channel].tolist() == [image for _, image, _, _ in expected]
        scores = torch.tensor([value for value, _, _, _ in expected])
        torch.testing.assert_close(top.scores[channel], scores)
        if score in ("max", "quantile:0.9"):
            assert top.positions[channel].tolist() == [[y, x] for _, _, y, x in expected]
        else:
            assert (top.positions[channel] == -1).all()
    assert result.score == result[layer].score == score


@pytest.mark.parametrize("score", ["mean", "quantile:0.9"])
def test_batches_and_interruptions_change_no_bit(score: str, tmp_path: Path) -> None:
    expected = scanned(score=score)
    assert same_scan(scanned(score=score, batch_size=3), expected)
    data = Samples(interrupt=11)
    with pytest.raises(KeyboardInterrupt):
        scanned(data, score=score, batch_size=3, out=tmp_path)
    assert same_scan(scanned(data, score=score, out=tmp_path, resume=True), expected)
    assert same_scan(Scan.load(tmp_path), expected)
    assert Scan.load(tmp_path)["3"].score == score
    with pytest.raises(RecordError, match=f'score was "{score}", is "max"'):
        scanned(out=tmp_path, resume=True)


def test_statistics_are_of_the_maxima() -> None:
    by_mean, by_max = scanned(score="mean"), scanned()
    for name, layer_scan in by_mean.items():
        assert same_bits(layer_scan.statistics.maximum, by_max[name].statistics.maximum)
    ranked = by_mean["3"].strongest()
    assert by_mean["3"].top.scores[ranked, 0].tolist() == sorted(
        by_mean["3"].top.scores[:, 0].tolist(), reverse=True
    )


def test_a_function_of_ones_own() -> None:
    def middle(maps: Tensor) -> Tensor:
        return maps[:, :, 2, 2]

    result = scanned(layers=["3"], score=middle)
    assert "middle" in result.score
    assert same_bits(
        result["3"].top.scores[1],
        torch.stack([output(plain(), "3", Samples()[i])[1, 2, 2] for i in range(23)])
        .sort(descending=True)
        .values[:4],
    )
    assert result["3"].rows()[0]["y"] is None


@pytest.mark.parametrize("score", ["mean", "l2", "max"])
def test_a_vector_is_its_score(score: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 4)).eval()
    result = scanned(model=model, layers=["1"], score=score)["1"]
    assert same_bits(result.top.scores, scanned(model=model, layers=["1"])["1"].top.scores)
    assert (result.top.positions == 0).all()
    assert project_exemplars(model, Samples(), result, [1], rule="gradient").k == 4


def test_a_record_that_does_not_name_its_score_is_of_the_maximum(tmp_path: Path) -> None:
    result = scanned(out=tmp_path)
    path = tmp_path / "scan.json"
    manifest = json.loads(path.read_text())
    assert manifest["identity"].pop("score") == "max"
    path.write_text(json.dumps(manifest | {"checksum": checksum(manifest)}))
    assert same_scan(Scan.load(tmp_path), result)
    assert same_scan(scanned(out=tmp_path, resume=True), result)


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"score='maxx'.*did you mean 'max'"):
        scanned(score="maxx")
    with pytest.raises(UsageError, match="score='map'"):
        scanned(score="map")
    with pytest.raises(UsageError, match=r"gives \(23, 6, 10, 10\)"):
        scanned(score=lambda maps: maps)
    with pytest.raises(UsageError, match="gives float"):
        scanned(score=lambda maps: 0.5)
    with pytest.raises(NumberError, match="score of layer '0' gives NaN"):
        scanned(score=lambda maps: maps.amax(dim=(2, 3)) * torch.nan)
    by_mean = scanned(score="mean")
    with pytest.raises(UsageError, match=r"'3' are ranked by mean.*quantile"):
        project_exemplars(plain(), Samples(), by_mean["3"])
    with pytest.raises(UsageError, match="ranked by mean"):
        check(plain(), Samples(), by_mean, "3", ["gradient"])


def test_pictures_say_what_ranks_them(tmp_path: Path) -> None:
    images = open_images(torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    result = scan(plain(), images, "0", k=2, score="quantile:0.9")
    exemplars = project_exemplars(plain(), images, result["0"])
    assert exemplars.score == "quantile:0.9"
    for figure in (figures.grid(exemplars), figures.top_patches([exemplars])):
        assert "2 strongest responses by quantile:0.9" in texts(figure)
    assert "response by quantile:0.9" in texts(figures.overview([exemplars]))
    gallery.build(result, plain(), images, tmp_path, rules=["deconvnet"])
    page = (tmp_path / "index.html").read_text()
    assert "2 strongest responses by quantile:0.9 among" in page
    with pytest.raises(RecordError, match="score"):
        gallery.build(scan(plain(), images, "0", k=2), plain(), images, tmp_path)


def texts(figure: Any) -> str:
    written = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    return " ".join(" ".join(written).split())


def test_the_strongest_of_each_class() -> None:
    images = open_images(torch.rand(8, 3, 10, 10), None)
    images.labels = ["b", None, "a", "b", "a", "b", None, "a"]
    by_label = images.by_label()
    assert list(by_label) == ["a", "b"]
    assert by_label["a"].keys == [images.keys[i] for i in (2, 4, 7)]
    assert same_bits(by_label["b"][1], images[3])
    result = {label: scan(plain(), own, "3", k=2) for label, own in by_label.items()}
    assert set(result["a"]["3"].listing.labels) == {"a"}


def test_the_commands_rank_by_a_score_that_can_be_projected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = ("grid", "--limit", "8", "--k", "2", "--layers", "conv1", "--max-channels", "2")
    assert cli.main([*grid, "--score", "quantile:0.9", "--out", "out"]) == 0
    assert Scan.load("out").score == "quantile:0.9"
    assert cli.main([*grid, "--out", "out"]) == 1
    assert 'score was "quantile:0.9", is "max"' in capsys.readouterr().err
    for score, message in (("mean", "no position: give max or quantile:0.99"), ("x", "give 'max'")):
        with pytest.raises(SystemExit):
            cli.main([*grid, "--score", score])
        assert message in " ".join(capsys.readouterr().err.split())
