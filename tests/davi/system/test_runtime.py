"""Draws are a function of what a key means, whatever types and defaults it comes with."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from davi.build import build_forward_model
from davi.data.batches import KeyedOrder
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng, normal_each
from tests.test_architecture import TREES
from tests.tiny import default_dtype, tiny_config

CPU = torch.device("cpu")
DRAWS = {"rand", "randn", "normal", "linspace", "logspace"}  # their numbers depend on the dtype


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ((np.int64(3), "a"), (3, "a")),
        ((np.uint8(3), np.str_("a")), (3, "a")),
        ((torch.tensor(3), np.array(["a"])[0]), (3, "a")),
        ((-1, "1"), (np.int32(-1), "1")),
    ],
)
def test_what_means_the_same_draws_the_same(key: tuple, same: tuple) -> None:
    assert keyed_rng("cpu", *key).initial_seed() == keyed_rng("cpu", *same).initial_seed()


def test_plain_keys_draw_what_they_always_drew() -> None:
    assert keyed_rng("cpu", 0, "restore", "0", 0).initial_seed() == 3293871053015828425
    assert keyed_rng("cpu", 1).initial_seed() != keyed_rng("cpu", "1").initial_seed()


@pytest.mark.parametrize("part", [0.0, None, b"a", np.float32(1), torch.zeros(2), (1,)])
def test_what_is_neither_number_nor_text_is_no_key(part: object) -> None:
    with pytest.raises(InputError, match="a seed is a whole number, a name is text"):
        keyed_rng("cpu", part)


def test_every_draw_states_its_dtype() -> None:
    without = [
        (module, node.lineno)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in DRAWS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "torch"
        and "dtype" not in {keyword.arg for keyword in node.keywords}
    ]
    assert without == []


def test_another_default_dtype_changes_no_draw(tiny_prior: Path) -> None:
    def draws() -> list[torch.Tensor]:
        rngs = [keyed_rng("cpu", 0)]
        noise = "noise={name: gaussian, sigma: [0.1, 0.2]}"
        masks = "operator={name: inpainting, mask: random_pixels}"
        model = build_forward_model(tiny_config(tiny_prior, noise, masks), (3, 16, 16), CPU)
        y, operator = model.measure(torch.zeros(1, 3, 16, 16, dtype=torch.float32), rngs)
        flips = [KeyedOrder(9, 0, flip=True)[position][1] for position in range(9)]
        return [normal_each((5,), rngs), y, operator.singular_values, torch.tensor(flips)]

    with default_dtype(torch.float64):
        found = draws()
    for one, other in zip(found, draws(), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
