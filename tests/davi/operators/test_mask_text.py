"""Masks as text."""

import pytest
import torch

from davi.operators.inpainting import random_pixels
from davi.operators.mask_text import is_mask_text, mask_from_text, mask_to_text
from davi.system.errors import InputError


@pytest.mark.parametrize("size", [(3, 5), (16, 16), (1, 9)])
def test_a_mask_survives_as_text(size: tuple[int, int], rng: torch.Generator) -> None:
    mask = random_pixels(*size, 0.4, rng)
    text = mask_to_text(mask)
    assert is_mask_text(text)
    assert torch.equal(mask_from_text(text), mask)


def test_the_text_of_a_mask_holds_as_many_bits_as_it_says() -> None:
    text = mask_to_text(torch.ones(4, 4))
    for damaged in (text.replace("4x4", "40x40"), text.replace("4x4", "2x2"), f"{text[:-2]}A"):
        with pytest.raises(InputError, match="does not hold as many bits"):
            mask_from_text(damaged)
    for path in ("mask.png", "mask:4x4:../x.png", "mask:0x4:", f" {text}"):
        assert not is_mask_text(path)
