"""Makes the photographs of this folder from two Debian packages.

On a Debian system:

apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
for package in lomiri-wallpapers-*.deb; do dpkg-deb --extract $package unpacked; done
python davi/data/photographs/make.py unpacked
"""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageCms, ImageOps

LONG_SIDE = 1600  # pixels
QUALITY = 90  # of the JPEG, with colours at full resolution
SOURCES = {  # new name: name in the packages
    "brushes": "Picture_1A_by_freespace",
    "clock": "greentock_by_Peter_Nerlich",
    "dandelion": "seeding_by_Clements_Engelhardt",
    "dogs": "friends_by_Aitzol_Berasategi",
    "drum": "Wine_by_Jakkub_Mede",
    "fig": "Picture_0B_by_freespace",
    "lamps": "free_by_Peter_Nerlich",
    "leaves": "Dragonfly_by_Bolly",
    "meadow": "aitzgorri_by_Aitzol_Berasategi",
    "mountains": "picosdeeuropa_by_Aitzol_Berasategi",
    "nuthatch": "Kleiber_by_Lukas_Baubkus",
    "ropes": "Bridge_by_Sander_Klootwijk",
    "stream": "life_by_Aitzol_Berasategi",
    "sunset": "sunset_by_Aitzol_Berasategi",
}


def reduced(path: Path) -> Image.Image:
    """Returns a photograph upright, in sRGB, with a long side of `LONG_SIDE` at most."""
    with Image.open(path) as picture:
        image, profile = ImageOps.exif_transpose(picture), picture.info.get("icc_profile")
    if profile is not None:
        image = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
        )
    image = image.convert("RGB")
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return image


def main(unpacked: Path) -> None:
    """Writes the photographs beside this file."""
    for name, source in SOURCES.items():
        image = reduced(unpacked / "usr/share/backgrounds" / f"{source}.jpg")
        image.info.clear()
        image.save(Path(__file__).with_name(f"{name}.jpg"), quality=QUALITY, subsampling=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
