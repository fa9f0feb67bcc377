"""The demonstration itself takes minutes; here is what it takes for granted."""

from davi.commands.demo import NUM_CROPS, SHOWN
from davi.data.image_sets import spread_order
from davi.data.photos import PhotoCrops


def test_the_crops_shown_are_among_those_restored() -> None:
    crops = PhotoCrops("held_out", 64)
    assert set(SHOWN) <= {crops.name(i) for i in spread_order(len(crops))[:NUM_CROPS]}
