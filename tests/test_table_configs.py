"""The shipped tables: all of the paper's, its numbers as printed, and a twin that runs here."""

import functools
from pathlib import Path

from davi.build import build_noise
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config
from davi.operators.noise import NoiseMixture
from davi.solvers.solver_file import read_solver
from davi.tables.config import TableConfig
from tests.conftest import BLIND, REPOSITORY

FOLDER = REPOSITORY / "configs/tables"
NUMBERS = (*range(1, 12), 13)  # Table 12 lists hyperparameters: tests/davi/config/test_config.py
# Parts and side questions.
NOT_A_RESULT = {
    "base_paper",
    "photos_convergence",
    "photos_perturbed",
    "photos_tuning",
    "photos_uncertainty",
}
TABLES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem not in NOT_A_RESULT)
TALK = {"talk_table5"}  # of the DMPlug talk
TWINS = [path for path in TABLES if path.stem.startswith("photos_")]


@functools.cache
def load(name: str) -> TableConfig:
    return load_config(FOLDER / f"{name}.yaml", TableConfig)


@functools.cache
def task_of(config: str, overrides: tuple[str, ...]) -> str:
    return load_config(FOLDER / config, RunConfig, overrides).task


def test_every_table_of_the_paper_has_a_twin() -> None:
    expected = {f"{kind}table{number}" for kind in ("", "photos_") for number in NUMBERS}
    expected |= {f"{kind}{name}" for kind in ("", "photos_") for name in TALK}
    assert {path.stem for path in TABLES} == expected | {"photos_all"}


def test_runs_and_solvers_of_a_table_can_be_read() -> None:
    for path in sorted({*FOLDER.glob("*.yaml")} - {FOLDER / "base_paper.yaml"}):
        table = load(path.stem)
        for column in table.columns:
            task = task_of(column.config, column.set)
            for row in table.rows:
                overrides = row.set | row.columns.get(column.id, {})
                read_solver(FOLDER / row.solver, column.data_set, task, overrides)


def test_every_table_has_the_two_rows_without_a_network() -> None:
    for path in TABLES:
        assert {"measurement", "pseudo_inverse"} <= {row.id for row in load(path.stem).rows}


def test_a_twin_is_measured_on_the_embedded_data() -> None:
    for path in TWINS:
        twin = load(path.stem)
        assert (twin.num_images, twin.batch_size, twin.precision) == (128, 8, "bf16")
        assert not {"lpips", "fid"} & set(twin.metrics)  # their weights are not shipped
        for column in twin.columns:
            assert column.config.startswith("../photos_")
            assert column.data_set == "photos"
            assert column.images in ("photos:held_out", "photos:out_of_distribution")


def test_a_twin_has_the_rows_and_columns_of_its_table() -> None:
    for name in [*(f"table{number}" for number in NUMBERS), *TALK]:
        table, twin = load(name), load(f"photos_{name}")
        assert [column.id for column in twin.columns] == [column.id for column in table.columns]
        rows = {row.id for row in table.rows}
        assert rows <= {row.id for row in twin.rows}
        assert twin.paper == table.paper


# Values of the paper: (table, row, column): all it prints.
PRINTED = {
    (1, "ddrm", "gaussian_blur"): {"nfe": 20, "psnr": 26.26, "lpips": 0.269, "fid": 56.82},
    (1, "davi", "inpainting"): {"nfe": 1, "psnr": 26.25, "lpips": 0.112, "fid": 14.31},
    (2, "pigdm", "super_resolution"): {"nfe": 100, "psnr": 25.53, "lpips": 0.321, "fid": 60.61},
    (2, "davi", "gaussian_blur"): {"nfe": 1, "psnr": 23.73, "lpips": 0.343, "fid": 63.29},
    (3, "ddrm", "gaussian_blur"): {"psnr": 16.09, "lpips": 0.595, "fid": 157.38},
    (4, "dps", "super_resolution"): {"seconds": 77.7, "fid": 36.29},
    (5, "c", "gaussian_blur"): {"psnr": 26.71, "lpips": 0.247, "fid": 49.37},
    (6, "ddrm", "imagenet"): {"nfe": 20, "psnr": 22.96, "lpips": 0.361, "fid": 40.47},
    (6, "fps", "ffhq"): {"nfe": 1000, "psnr": 26.04, "lpips": 0.304, "fid": 44.45},
    (7, "red_diff", "imagenet"): {"nfe": 1000, "psnr": 22.51, "lpips": 0.353, "fid": 66.72},
    (8, "fps", "super_resolution"): {"psnr": 26.92, "lpips": 0.182, "fid": 25.08},
    (9, "dps", "super_resolution"): {"nfe": 1000, "psnr": 25.46, "lpips": 0.254, "fid": 35.11},
    (10, "dps", "inpainting"): {"nfe": 1000, "psnr": 23.79, "lpips": 0.218, "fid": 48.82},
    (10, "davi_g", "super_resolution"): {"nfe": 1, "psnr": 28.58, "lpips": 0.196, "fid": 30.61},
    (11, "cddb_20", "imagenet"): {"nfe": 20, "psnr": 24.26, "lpips": 0.340, "fid": 45.87},
    (13, "ddrm", "super_resolution"): {"nfe": 20, "gmac": 3893.8},
}
METHODS = {1: 7, 2: 7, 3: 6, 4: 7, 5: 6, 6: 7, 7: 6, 8: 2, 9: 5, 10: 7, 11: 7, 13: 8}


def test_the_papers_numbers_are_as_printed() -> None:
    for (number, row, column), printed in PRINTED.items():
        assert load(f"table{number}").paper[row][column] == printed, number


def test_every_method_of_the_paper_has_every_number() -> None:
    for number in NUMBERS:
        table = load(f"table{number}")
        assert len(table.paper) == METHODS[number]
        for cells in table.paper.values():
            assert set(cells) == {column.id for column in table.columns}
            assert len({tuple(numbers) for numbers in cells.values()}) == 1


def test_the_talks_numbers_are_as_printed() -> None:
    paper = load("talk_table5").paper
    assert {len(cells) for cells in paper.values()} == {8}
    assert paper["ddrm"]["impulse_low"] == {"psnr": 14.82}
    assert paper["admm_pnp"]["impulse_high"] == {"psnr": 14.52}
    assert paper["dmplug"]["shot_low"] == paper["dmplug"]["shot_high"] == {"psnr": 26.34}
    assert paper["resample"]["speckle_high"] == {"psnr": 14.23}


def test_methods_of_the_talk_are_told_other_noise_than_there_is() -> None:
    for name in ("talk_table5", "photos_talk_table5"):
        table = load(name)
        assert {column.assumed_sigma for column in table.columns} == {0.01}
        found = [
            build_noise(load_config(FOLDER / column.config, RunConfig, column.set).noise)
            for column in table.columns
        ]
        kinds = load_config(FOLDER / "../photos_denoising_noise_kinds.yaml", RunConfig).noise
        assert NoiseMixture(tuple(found)) == build_noise(kinds)


def test_the_papers_oddities_are_footnoted() -> None:
    for number, row, words in [
        (4, "davi", "49.7%"),
        (6, "ddrm", "22.96"),
        (10, "dps", "equals that of DDNM+"),
        (13, "table", "multiply-accumulates"),
    ]:
        for kind in ("", "photos_"):
            assert words in load(f"{kind}table{number}").footnotes[row]


def test_the_table_of_all_has_every_solver_on_every_task() -> None:
    table = load("photos_all")
    assert len(table.columns) == 5
    files = sorted(path.stem for path in (REPOSITORY / "configs/solvers").glob("*.yaml"))
    of_denoising = {"exact_denoising"}  # a reference: photos_uncertainty
    assert set(files) - of_denoising - BLIND <= {Path(row.solver).stem for row in table.rows}
    steps = {(row.id, row.set["num_steps"]) for row in table.rows if "num_steps" in row.set}
    averaged = {row.id: row.set["mean_of"] for row in table.rows if "mean_of" in row.set}
    assert averaged == {"davi_mean_of_8": 8}
    assert steps == {("i2sb_1", 1), ("i2sb_10", 10), ("cddb_1", 1), ("cddb_10", 10)}
    assert {row.id for row in table.rows if row.num_images is not None} == {"dmplug"}


def test_samples_are_compared_with_those_of_the_exact_posterior() -> None:
    table = load("photos_uncertainty")
    tasks = [task_of(column.config, column.set) for column in table.columns]
    assert {column.images for column in table.columns} == {"photos:held_out"}
    assert len(set(tasks)) == 5
    for row in table.rows:
        for task in row.only or tasks:
            read_solver(FOLDER / row.solver, "photos", task, row.set)
    assert table.rows[-1].id == "exact_denoising"


def test_the_candidates_for_the_photographs_never_see_held_out_images() -> None:
    table = load("photos_tuning")
    assert {column.images for column in table.columns} == {"photos:train"}
