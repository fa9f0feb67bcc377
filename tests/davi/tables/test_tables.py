"""Making a table: what is run, what is kept, what is absent, and what the numbers are."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi.metrics.features
import davi.tables.assembling
import davi.tables.scoring
from davi.config.yaml_file import load_config
from davi.metrics.scores import IMAGE_SCORES
from davi.system.errors import InputError
from davi.system.world import World
from davi.tables import cache as cache_module
from davi.tables.assembling import NOT_RUN, absences
from davi.tables.code_hash import code_hash
from davi.tables.config import TableConfig
from davi.tables.plan import read_plan
from davi.tables.problem import spread_order
from davi.tables.result import NOT_APPLICABLE, TableResult
from davi.tables.writing import write_table
from tests.conftest import REPOSITORY
from tests.davi.stand_ins import Distance, Features
from tests.davi.tables.conftest import SOLVER, error_over_photographs, make
from tests.processes import environment, in_world
from tests.tiny import ALONE, write_tiny_generator, write_tiny_prior

CELLS = {(row, column) for row in ("drawn", "still") for column in ("sr", "holes")}
# 5 images and 2 x 2 further samples, each of 2 evaluations, and 2 to warm up at each cell.
EVALUATIONS = 2 * (2 * (5 + 4) + 2)
SECONDS = "metrics=[psnr, ssim, nfe, seconds, gmac]"


def scores(result: TableResult) -> dict:
    return {
        place: {
            name: {key: values[key] for key in ("psnr", "ssim")}
            for name, values in cell.per_image.items()
        }
        for place, cell in result.cells.items()
    }


def entries(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "out/cache").glob("??/*")}


def test_the_numbers_of_a_table(home: Path) -> None:
    """Against PSNR, means and standard errors by NumPy from the pictures."""
    result = make(home, SECONDS, "num_examples=5", "paper={drawn: {sr: {psnr: 30.5}}}")
    assert result.cells.keys() == CELLS
    assert result.rows == {"drawn": "drawn", "still": "Still"}
    assert result.columns == {"sr": "SR x4", "holes": "Holes"}
    assert result.footnotes == {"table": "a note"}
    for cell in result.cells.values():
        assert cell.num_images == 5
        assert not cell.absent
        found = {}
        for name, path in cell.pictures["restored"].items():
            truth = Image.open(result.truth[cell.column]["reference"][name])
            pixels, truth = np.asarray(Image.open(path), float), np.asarray(truth, float)
            psnr = 10 * np.log10(255**2 / np.mean((pixels - truth) ** 2))
            assert cell.per_image[name]["psnr"] == pytest.approx(psnr, abs=1e-4)
            found[name] = psnr
        number = cell.numbers["psnr"]
        assert number.value == pytest.approx(np.mean(list(found.values())), abs=1e-4)
        assert number.error == pytest.approx(error_over_photographs(found), rel=1e-3)
        assert cell.numbers["seconds"].value > 0
        assert cell.numbers["seconds"].error is None
    drawn = result.cells["drawn", "sr"]
    assert drawn.paper == {"psnr": 30.5}
    assert (drawn.forward, drawn.backward) == (2, 0)
    assert drawn.numbers["nfe"].value == 2
    assert drawn.numbers["gmac"].value > 0
    assert result.cells["still", "sr"].numbers["gmac"].value == 0
    assert result.facts["SHA-256 of " + str(home / "prior.safetensors")] != "missing"
    assert "spread: 0.0" in result.config


def test_files_of_a_folder_count_one_by_one(home: Path) -> None:
    folder = home / "images"
    folder.mkdir()
    for index in range(3):
        picture = np.full((16, 16, 3), 80 * index, np.uint8)
        Image.fromarray(picture).save(folder / f"a_r{index}_y000_x000.png")
    column = f"{{id: sr, label: S, config: run.yaml, data_set: photos, images: {folder}}}"
    cell = make(home, f"columns=[{column}]", "num_images=3").cells["drawn", "sr"]
    values = [row["psnr"] for row in cell.per_image.values()]
    error = np.std(values, ddof=1) / np.sqrt(3)
    assert cell.numbers["psnr"].error == pytest.approx(error)


def test_posterior_pictures_are_those_of_methods_that_draw(home: Path) -> None:
    result = make(home)
    drawn, still = result.cells["drawn", "holes"], result.cells["still", "holes"]
    assert still.pictures.keys() == {"restored"}
    assert drawn.pictures.keys() == {"restored", "mean", "std"}
    for kind in drawn.pictures:
        assert len(drawn.pictures[kind]) == 2
    shown = np.asarray(Image.open(next(iter(drawn.pictures["std"].values()))), float) / 255
    # 0.2 in every pixel, mean over 3 channels of the deviation of 3 draws, 0.5 being white.
    assert shown.mean() == pytest.approx(0.2 * 0.886 / 0.5, rel=0.1)
    assert len(entries(home)) == 2 * (2 * (5 + 4) + 2 * (5 + 2))
    without = make(home, "num_samples=0", name="without")
    assert without.cells["drawn", "holes"].pictures.keys() == {"restored"}


def test_a_second_run_does_no_work(home: Path, evaluated: list[int]) -> None:
    first = make(home)
    assert sum(evaluated) == EVALUATIONS
    before = entries(home)
    evaluated.clear()
    again = make(home)
    assert evaluated == []
    assert entries(home) == before
    assert again == first


def test_seconds_are_of_one_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without a new cell keeps its times; one new cell, and all are measured again."""
    clock = itertools.count(1.0)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    drawn = "{{id: drawn, solver: drawn.yaml, set: {{steps: {}}}}}".format

    def times(steps: int) -> dict[str, float]:
        rows = f"rows=[{drawn(steps)}, {{id: still, solver: drawn.yaml}}]"
        cells = make(home, SECONDS, "num_samples=0", rows).cells
        return {row: cells[row, "sr"].numbers["seconds"].value for row in ("drawn", "still")}

    assert times(2) == {"drawn": 1, "still": 1}
    monkeypatch.setattr("time.perf_counter", lambda: 7 * next(clock))
    assert times(2) == {"drawn": 1, "still": 1}
    assert times(3) == {"drawn": 7, "still": 7}
    untimed = make(home, SECONDS, "num_samples=0", name="elsewhere", only_cached=True)
    assert untimed.cells["drawn", "sr"].absent["seconds"] == "not timed yet"


@pytest.mark.parametrize(
    ("overrides", "redone"),
    [
        (["rows=[{id: drawn, solver: drawn.yaml, set: {steps: 1}}]"], {"drawn"}),
        (["seed=1"], {"drawn", "still"}),
        (["precision=bf16"], {"drawn", "still"}),
        (["batch_size=3"], set()),
        (["title=Another", "num_images=4", "num_examples=1"], set()),
    ],
)
def test_what_changes_is_redone_and_nothing_else(
    home: Path, overrides: list[str], redone: set[str]
) -> None:
    make(home, "num_samples=0")
    before = entries(home).keys()
    result = make(home, "num_samples=0", *overrides)
    new = [name for name in entries(home).keys() - before if name.endswith("json")]
    assert len(new) == sum(5 for row, _ in result.cells if row in redone)


def test_other_weights_or_code_are_other_results(home: Path) -> None:
    make(home, "num_samples=0")
    before = entries(home).keys()
    (home / "drawn.py").write_text(SOLVER.replace("Draws around", "Samples near") + "# a comment\n")
    make(home, "num_samples=0")
    assert entries(home).keys() == before
    (home / "drawn.py").write_text(SOLVER.replace("x = operator", "x = 0.5 * operator"))
    changed = make(home, "num_samples=0")
    assert len(entries(home)) == 2 * len(before)
    assert scores(changed) != scores(make(home, "num_samples=0", "seed=1"))
    so_far = len(entries(home))
    write_tiny_prior(home / "prior.safetensors", "seed=1")
    make(home, "num_samples=0")
    assert len(entries(home)) == so_far + len(before)


def test_results_do_not_depend_on_the_batch(home: Path) -> None:
    found = [
        scores(make(home, f"batch_size={size}", "num_samples=0", output=home / f"out{size}"))
        for size in (1, 2, 5)
    ]
    assert found[0] == found[1] == found[2]


def shard(world: World, home: Path) -> tuple[TableResult | None, int]:
    """The table, and how many restorations this process made."""
    written, real = [], cache_module.Cache.write

    def counted(cache: cache_module.Cache, key: str, *rest: object, **known: object) -> None:
        written.append(key)
        real(cache, key, *rest, **known)

    cache_module.Cache.write = counted
    return make(home, world=world, output=home / "two"), len(written)


@pytest.mark.slow
def test_two_processes_share_the_work_of_a_table(home: Path) -> None:
    alone = make(home)
    (first, done), (second, done_by_second) = in_world(2, shard, home)
    assert second is None
    assert scores(first) == scores(alone)
    assert done + done_by_second == len(list((home / "two/cache").glob("??/*.png"))) == 32
    assert min(done, done_by_second) > 10


def test_two_tables_share_what_they_have_in_common(home: Path, evaluated: list[int]) -> None:
    first = make(home)
    evaluated.clear()
    other = make(
        home,
        "columns=[{id: x4, label: X, config: run.yaml, data_set: ffhq}]",
        "paper={}",
        name="other",
    )
    assert evaluated == []
    assert scores(other)["drawn", "x4"] == scores(first)["drawn", "sr"]


def test_an_interrupted_run_goes_on(
    home: Path, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between picture and record, and before either."""
    expected = scores(make(home, output=home / "expected"))
    done, real = [], cache_module.write_text

    def killed(path: Path, text: str) -> None:
        done.append(path)
        if len(done) == 4:
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(cache_module, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        make(home)
    monkeypatch.setattr(cache_module, "write_text", real)
    evaluated.clear()
    assert len(entries(home)) == 7  # three whole ones, and a picture without a record
    assert scores(make(home)) == expected
    assert len(evaluated) > 0
    assert sum(evaluated) == EVALUATIONS - 2 * 3


def test_a_damaged_entry_is_redone(home: Path) -> None:
    expected = scores(make(home, "num_samples=0"))
    whole = {name: content for name, content in entries(home).items() if name.endswith("png")}
    pictures = sorted((home / "out/cache").glob("??/*.png"))
    records = sorted((home / "out/cache").glob("??/*.json"))
    pictures[0].write_bytes(pictures[0].read_bytes()[:-20])
    pictures[1].unlink()
    pictures[2].write_bytes(pictures[3].read_bytes())
    records[4].write_text("{")
    records[5].write_text("[]")
    part = make(home, "num_samples=0", only_cached=True)
    assert sum(cell.num_images for cell in part.cells.values()) == 20 - 5
    assert scores(make(home, "num_samples=0")) == expected
    assert {name: entries(home)[name] for name in whole} == whole


def test_a_metric_that_has_changed_is_computed_anew_and_nothing_is_restored(
    home: Path, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(home)
    evaluated.clear()
    monkeypatch.setitem(IMAGE_SCORES, "psnr", lambda x, y: torch.full((len(x),), 7.0))
    assert make(home).cells["drawn", "sr"].numbers["psnr"].value != 7
    monkeypatch.setattr(davi.tables.scoring, "metric_code", str.upper)
    monkeypatch.setattr(davi.tables.assembling, "metric_code", str.upper)
    assert make(home).cells["drawn", "sr"].numbers["psnr"].value == 7
    assert evaluated == []


def test_nothing_is_run_where_only_the_cache_may_be_used(home: Path, evaluated: list[int]) -> None:
    result = make(home, only_cached=True)
    assert evaluated == []
    assert {cell.absent["all"] for cell in result.cells.values()} == {NOT_RUN}
    make(home, "num_images=2", "num_examples=1")
    evaluated.clear()
    part = make(home, only_cached=True)
    assert evaluated == []
    assert part.cells["drawn", "sr"].num_images == 2


def reason(home: Path, row: str, *overrides: str, column: str = "sr") -> str:
    return reasons(home, row, *overrides)[column]


def reasons(home: Path, row: str, *overrides: str) -> dict[str, str]:
    result = make(home, f"rows=[{row}, {{id: still, solver: drawn.yaml}}]", *overrides)
    return {
        column: cell.absent.get("all", "")
        for (row, column), cell in result.cells.items()
        if row != "still"
    }


def test_what_is_not_there_says_why(home: Path) -> None:
    assert reason(home, "{id: a, absent: weights were never published}") == (
        "weights were never published"
    )
    found = reasons(home, "{id: a, solver: drawn.yaml, only: [holes]}")
    assert found == {"sr": NOT_APPLICABLE, "holes": ""}
    davi = REPOSITORY / "configs/solvers/davi.yaml"
    missing = f"{{id: a, solver: {davi}, set: {{checkpoint: nowhere.safetensors}}}}"
    assert "nowhere.safetensors: no such file" in reason(home, missing)
    other = "columns=[{id: sr, label: SR, config: run.yaml, data_set: lsun}]"
    found = reason(home, f"{{id: a, solver: {davi}}}", other)
    assert found == "davi.yaml names no checkpoint for lsun, super_resolution"
    nowhere = "columns=[{id: sr, label: S, config: run.yaml, data_set: photos, images: nowhere}]"
    assert "nowhere: no such folder" in reason(home, "{id: a, solver: drawn.yaml}", nowhere)
    assert "holds 2 images, 5 needed" in reason(
        home, "{id: a, solver: drawn.yaml}", nowhere.replace("nowhere", str(two_images(home)))
    )


def two_images(home: Path) -> Path:
    folder = home / "two_images"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (16, 16)).save(folder / f"{name}.png")
    return folder


def test_a_method_that_cannot_solve_a_problem_says_why(home: Path) -> None:
    text = SOLVER.replace("import Solver", "import NOISE_LEVEL, Solver").replace(
        "    spread",
        "    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL})\n"
        "    tasks: ClassVar = frozenset({'super_resolution'})\n    spread",
        1,
    )
    (home / "picky.py").write_text(text)
    (home / "picky.yaml").write_text("solver: picky.py\n")
    found = reasons(home, "{id: a, solver: picky.yaml}")
    assert found == {"sr": "", "holes": "drawn is not defined for inpainting"}
    noise = 'set: ["noise.sigma=[0.1, 0.2]"]'
    unknown = f"columns=[{{id: sr, label: S, config: run.yaml, data_set: photos, {noise}}}]"
    assert "one known sigma" in reason(home, "{id: a, solver: picky.yaml}", unknown)


def test_only_methods_that_ask_for_it_need_the_prior(home: Path) -> None:
    (home / "prior.safetensors").unlink()
    result = make(home)
    assert "prior.safetensors: no such file" in result.cells["drawn", "sr"].absent["all"]
    assert result.cells["still", "sr"].num_images == 5


def test_a_method_that_diverges_is_absent_and_the_others_are_not(home: Path) -> None:
    (home / "broken.py").write_text(SOLVER.replace("return x", "return x / 0"))
    (home / "broken.yaml").write_text("solver: broken.py\n")
    result = make(home, "rows=[{id: a, solver: broken.yaml}, {id: b, solver: drawn.yaml}]")
    assert "NaN or infinity" in result.cells["a", "sr"].absent["all"]
    assert result.cells["b", "sr"].num_images == 5
    assert len(absences(result)) == 1


def test_metrics_whose_weights_are_missing_are_absent_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("weights are not here")

    monkeypatch.setattr(davi.tables.scoring, "Lpips", refuse)
    monkeypatch.setattr(davi.metrics.features, "InceptionFeatures", refuse)
    metrics = "metrics=[psnr, lpips, fid]"
    cell = make(home, metrics).cells["drawn", "sr"]
    assert cell.absent == {"lpips": "weights are not here", "fid": "weights are not here"}
    assert cell.numbers.keys() == {"psnr"}
    monkeypatch.setattr(davi.tables.scoring, "Lpips", Distance)
    monkeypatch.setattr(davi.metrics.features, "InceptionFeatures", Features)
    result = make(home, metrics)
    cell = result.cells["drawn", "sr"]
    assert not cell.absent
    assert cell.numbers["fid"].value > 0
    assert cell.numbers["fid"].error is None
    name, path = next(iter(cell.pictures["restored"].items()))
    truth = Image.open(result.truth["sr"]["reference"][name])
    difference = np.abs(np.asarray(Image.open(path), float) - np.asarray(truth, float)).mean()
    assert cell.per_image[name]["lpips"] == pytest.approx(difference / 127.5, rel=1e-4)
    monkeypatch.setattr(davi.tables.scoring, "Lpips", refuse)
    monkeypatch.setattr(davi.metrics.features, "InceptionFeatures", refuse)
    assert make(home, metrics).cells["drawn", "sr"].numbers == cell.numbers


def test_a_row_may_have_fewer_images(home: Path) -> None:
    rows = "rows=[{id: few, solver: drawn.yaml, num_images: 3}, {id: all, solver: drawn.yaml}]"
    result = make(home, rows, "num_examples=4")
    few, every = result.cells["few", "sr"], result.cells["all", "sr"]
    assert (few.num_images, every.num_images) == (3, 5)
    assert few.per_image.keys() < every.per_image.keys()
    assert few.pictures["restored"].keys() == every.pictures["restored"].keys()
    assert len(few.pictures["restored"]) == 3


@pytest.mark.parametrize("count", [1, 2, 5, 128, 577])
def test_every_beginning_of_the_order_is_spread(count: int) -> None:
    order = spread_order(count)
    assert sorted(order) == list(range(count))
    for length in (2, 3, 8, 32):
        if length < count:
            gaps = np.diff([0, *sorted(order[:length]), count])
            assert gaps.max() <= 2.1 * count / length + 1


def test_measurements_are_those_of_degrade(home: Path, script: object) -> None:
    source = two_images(home)
    holes = "operator={name: inpainting, mask: random_box, box_size: 4}"
    column = f"{{id: holes, label: H, config: run.yaml, data_set: x, set: ['{holes}']"
    overrides = f"columns=[{column}, images: {source}}}]", "num_images=2"
    config = load_config(home / "table.yaml", TableConfig, overrides)
    problem = read_plan(config, home, ALONE.device).problems["holes"]
    folder = home / "measured"
    words = "--input", source, "--output", folder, "--set", holes
    assert script("degrade", home / "run.yaml", *words)[0] == 0
    assert sorted(problem.names) == ["a", "b"]
    for position, name in enumerate(problem.names):
        y = torch.from_numpy(np.load(folder / f"measurement/{name}.npy"))
        torch.testing.assert_close(problem.measure(position), y, rtol=0, atol=0)
        mask = np.asarray(Image.open(folder / f"mask/{name}.png")) > 127
        operator = problem.operator_for([position])
        assert (operator.singular_values.bool().squeeze().numpy() == mask).all()


def test_a_hash_of_code_follows_imports(tmp_path: Path) -> None:
    path = tmp_path / "a.py"

    def hashed(text: str) -> str:
        path.with_name(f"{len(list(tmp_path.iterdir()))}.py").write_text(text)
        return code_hash([path.with_name(f"{len(list(tmp_path.iterdir())) - 1}.py")])

    plain = hashed("x = 1\n")
    assert plain == hashed('"""What this is."""\n\nx = 1  # one\n')
    assert plain != hashed("x = 2\n")
    through = hashed("def f():\n    from davi.solvers import grids\n    return 1\n")
    assert through != hashed("def f():\n    from davi.solvers import nothing\n    return 1\n")


def test_davi_and_its_checkpoint(home: Path) -> None:
    """A generator that lies elsewhere is the same one; another one is not."""
    path = write_tiny_generator(home / "generator.safetensors", home / "prior.safetensors")
    davi_yaml = REPOSITORY / "configs/solvers/davi.yaml"

    def of(path: Path) -> TableResult:
        row = f"{{id: davi, solver: {davi_yaml}, set: {{checkpoint: {path}}}, only: [sr]}}"
        return make(home, f"rows=[{row}]", "num_samples=0")

    first = of(path)
    assert first.cells["davi", "sr"].forward == 1
    before = entries(home).keys()
    moved = path.rename(home / "moved.safetensors")
    of(moved)
    assert entries(home).keys() == before
    other = write_tiny_generator(
        home / "other.safetensors", home / "prior.safetensors", "bridge.h=0.3"
    )
    of(other)
    assert len(entries(home)) == 2 * len(before)


def test_the_command(home: Path) -> None:
    words = ["scripts/eval.py", "table", home / "table.yaml", "--output", home / "out"]
    words += ["--device", "cpu", "--set", "num_images=2", "--set", "num_samples=0"]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"written to {home / 'out/table'}" in done.stdout
    assert json.loads((home / "out/table/table.json").read_text())


def test_bad_tables_are_refused_in_one_line(home: Path, script: object) -> None:
    for change, message in (
        ("rows=[{id: a, solver: nowhere.yaml}]", "nowhere.yaml: cannot read"),
        ("rows=[{id: a, solver: drawn.yaml, set: {spred: 1}}]", "did you mean 'spread'"),
        ("num_samples=1", "at least 2"),
        ("metrics=[beauty]", "metrics"),
    ):
        code, output = script(
            "eval",
            "table",
            home / "table.yaml",
            "--output",
            home / "out",
            "--set",
            change,
        )
        assert code == 2
        assert message in output
        assert output.count("\n") == 1
    code, output = script("eval", "table", home / "table.yaml", "--print-config")
    assert code == 0
    assert "num_images: 5" in output


BLIND = '''
from typing import ClassVar
import torch
from davi.solvers.blind import BlindSolver

class Guess(BlindSolver):
    """Takes the kernel for a corner and y for the image."""

    label: ClassVar[str] = "guess"

    def estimate(self, y, operator, noise, prior, rngs):
        kernel = torch.zeros(len(y), 1, operator.kernel_size, operator.kernel_size)
        kernel[:, :, 0, 1] = torch.arange(1, len(y) + 1.0)[:, None]
        return y, kernel
'''


def test_the_kernel_of_a_blind_method_lies_beside_its_image(home: Path) -> None:
    (home / "guess.py").write_text(BLIND)
    (home / "guess.yaml").write_text("solver: guess.py\n")
    operator = "operator={name: convolution, kernel_size: 5}"
    column = f"{{id: blind, label: Blind, config: run.yaml, data_set: photos, set: ['{operator}']}}"
    rows = "rows=[{id: guess, solver: guess.yaml}]"
    result = make(home, f"columns=[{column}]", rows, "num_samples=0")
    cell = result.cells["guess", "blind"]
    (first, second), paths = cell.pictures["restored"], cell.pictures["kernel"]
    assert paths.keys() == {first, second}
    for name, value in ((first, 1), (second, 2)):
        kernel = np.zeros((5, 5), np.float32)
        kernel[0, 1] = value
        np.testing.assert_array_equal(np.load(paths[name].with_suffix(".npy")), kernel)
        picture = np.asarray(Image.open(paths[name]))
        np.testing.assert_array_equal(picture, 255 * (kernel > 0))
    write_table(result, home / "written")
    assert f"kernel of {first} by guess" in (home / "written/index.html").read_text()
