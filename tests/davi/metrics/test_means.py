"""Standard errors of means over images that belong together."""

import math

import numpy as np
import pytest

from davi.data.photos import PhotoCrops
from davi.metrics.means import groups_by_name, mean_and_error
from davi.system.errors import InputError


def test_groups_of_one_have_the_usual_error() -> None:
    values = np.random.default_rng(0).normal(size=37).tolist()
    usual = {"mean": sum(values) / 37, "standard_error": np.std(values, ddof=1) / math.sqrt(37)}
    assert mean_and_error(values) == usual  # bit for bit
    assert mean_and_error(values, [str(index) for index in range(37)]) == usual


@pytest.mark.parametrize("sizes", [[12] * 20, [4, 8, 16, 20] * 5])
def test_the_error_is_the_deviation_of_the_mean(sizes: list[int]) -> None:
    """Of values N(0, 1 + 0.5^2) that share their first part within a group."""
    rng, groups = np.random.default_rng(0), np.repeat(range(len(sizes)), sizes)
    variance = np.square(sizes).sum() / len(groups) ** 2 + 0.5**2 / len(groups)
    draws = [
        rng.normal(size=len(sizes))[groups] + 0.5 * rng.normal(size=len(groups))
        for _ in range(2000)
    ]
    found = [mean_and_error(values.tolist(), groups.tolist()) for values in draws]
    squares = [[row["standard_error"] ** 2, row["mean"] ** 2] for row in found]
    np.testing.assert_allclose(np.mean(squares, axis=0), variance, rtol=0.1)
    as_if_independent = np.mean([mean_and_error(v.tolist())["standard_error"] for v in draws])
    assert as_if_independent < 0.5 * variance**0.5


def test_copies_of_an_image_tell_nothing_new() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert mean_and_error(3 * values, 3 * list("abcd")) == pytest.approx(mean_and_error(values))


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, math.inf]])
def test_one_group_or_infinite_values_have_no_error(values: list[float]) -> None:
    groups = ["a", "a"] if values[1] == 2 else ["a", "b"]
    assert math.isnan(mean_and_error(values, groups)["standard_error"])


@pytest.mark.parametrize(
    ("rule", "groups"),
    [
        ("folder", ["", "x/", "x/y/"]),
        ("(.)$", ["1", "2", "1"]),
        ("[ab]_", ["a_", "b_", "a_"]),
        ("(?:x/)?(y|a|b)(_)?", ["a", "b", "y"]),
    ],
)
def test_a_rule_finds_the_group_in_the_name(rule: str, groups: list[str]) -> None:
    assert groups_by_name(["a_1", "x/b_2", "x/y/a_1"], rule) == groups


def test_crops_belong_to_their_photograph() -> None:
    crops = PhotoCrops("held_out", 64)
    names = [crops.name(index) for index in range(len(crops))]
    photographs = [crops.source(index).stem for index in range(len(crops))]
    assert groups_by_name(names, "photo") == photographs


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("(.+)_", r"--group-by \(\.\+\)_: does not match c; it must find a group"),
        ("(a)?", r"--group-by \(a\)\?: does not match x/b_2; it"),
        ("folder", r"--group-by folder: all 2 images are in one group \(''\); an error needs two"),
        ("(", r"--group-by \(: no regular expression \(missing \)"),
    ],
)
def test_rules_without_groups_are_refused(rule: str, message: str) -> None:
    names = ["a_1", "c"] if rule == "folder" else ["a_1", "x/b_2", "c"]
    with pytest.raises(InputError, match=message):
        groups_by_name(names, rule)
