"""Show DAVI at work on real photographs: 4x super-resolution of photographs it never saw.

Degrades held-out photographs and restores them with the shipped generator: scores and a picture
within a minute. Then trains a generator of its own for a few minutes from the shipped prior, and
writes scores and picture again with its restorations. Every step is a command of its own, printed
before it runs.
"""

import json
import shlex
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from davi.commands.options import positive_int
from davi.commands.program import read_command_line

CONFIG = "photos_super_resolution"
NUM_CROPS = 128  # of 577; the same ones as in the tables of the photographs
SHOWN = (  # crops in the picture: whole objects, parts, textures
    "dogs_r4_y168_x102",
    "mountains_r4_y047_x240",
    "coffee_r4_y018_x048",
    "chelsea_r2_y022_x090",
    "dogs_r2_y552_x117",
    "mountains_r1_y682_x1097",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("--output", type=Path, default=Path("demo"), help="default: demo")
    parser.add_argument("--iterations", type=positive_int, default=250, help="default: 250")


def run(arguments: Namespace) -> None:
    """Restores, shows, trains, restores, shows."""
    output, folder = arguments.output, shlex.quote(str(arguments.output))
    methods = {
        "measurement, enlarged": "measured/lifted",
        "pseudo-inverse": "measured/pseudo_inverse",
        "DAVI, shipped": "restored_shipped",
    }
    _do(
        f"degrade {CONFIG} --input photos:held_out --num-images {NUM_CROPS}"
        f" --output {folder}/measured --baselines"
    )
    _restore(folder, CONFIG, "restored_shipped")
    for images in methods.values():
        _score(folder, images)
    _show(output, methods)

    fresh = f"fresh_{arguments.iterations}"  # so that a demo of another length starts anew
    print("\nNow the same with a generator that is trained here, for some minutes:")
    _do(  # in fp32, as bf16 is slow on many CPUs
        f"train {CONFIG} --run-dir {folder}/{fresh}"
        f" --set train.num_iterations={arguments.iterations} --set train.cooldown_iterations=0"
        " --set train.validate_every=50 --set train.save_every=50 --set train.precision=fp32"
    )
    _restore(folder, f"{folder}/{fresh}", f"restored_{fresh}")
    _score(folder, f"restored_{fresh}")
    _show(output, {**methods, "DAVI, trained just now": f"restored_{fresh}"})


def _do(line: str) -> None:
    """Prints a command and does it; its failure is that of the demo."""
    print(f"\n$ davi {line}", flush=True)
    name, *words = shlex.split(line)
    if code := read_command_line(name, words, f"davi {name}")():
        sys.exit(code)


def _restore(folder: str, checkpoint: str, name: str) -> None:
    _do(f"sample --checkpoint {checkpoint} --input {folder}/measured --output {folder}/{name}")


def _score(folder: str, images: str) -> None:
    _do(
        f"evaluate --reference {folder}/measured/reference --restored {folder}/{images}"
        " --metrics psnr,ssim --group-by photo --overwrite"
    )


def _show(output: Path, methods: dict[str, str]) -> None:
    """Prints the table of the methods and writes the picture."""
    import torch

    from davi.data.images import load_image, save_image
    from davi.data.panel import titled_grid

    summaries = {
        method: json.loads((output / f"{images}-eval/summary.json").read_text())
        for method, images in methods.items()
    }
    print(_table(summaries))
    rows = {"measurement": "measured/measurement", **methods, "truth": "measured/reference"}
    pictures = {
        title: torch.stack([load_image(output / images / f"{name}.png") for name in SHOWN])
        for title, images in rows.items()
    }
    save_image(titled_grid(pictures, scale=2), output / "demo.png")
    print(f"\nMeasurements, restorations and truth side by side: {output / 'demo.png'}")


def _table(summaries: dict[str, dict]) -> str:
    """Mean and standard error of every method."""
    first = next(iter(summaries.values()))
    lines = [
        f"\n4x super-resolution, noise 0.05, {first['num_images']} crops of {first['num_groups']} "
        "held-out photographs",
        f"{'':<24}{'PSNR [dB]':>18}{'SSIM':>20}",
    ]
    for method, content in summaries.items():
        cells = [
            f"{content['summary'][metric]['mean']:.{digits}f} +- "
            f"{content['summary'][metric]['standard_error']:.{digits}f}"
            for metric, digits in (("psnr", 2), ("ssim", 4))
        ]
        lines.append(f"{method:<24}{cells[0]:>18}{cells[1]:>20}")
    return "\n".join(lines)
