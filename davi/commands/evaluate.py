"""Score restored images against references of the same names.

--reference DIR --restored DIR                     images that are there
--checkpoint FILE --measured DIR --output DIR      restores a folder of `davi degrade` first

Of several samples of every image (RESTORED/sample_000/, sample_001/, ...) the calibration is scored
too: how well they tell what is not known.

Prints a table that says how every number is defined, and writes per_image.csv and summary.json.
`davi table` (`eval.py table`) makes a table of methods.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

from davi.commands.options import add_device, add_generator, add_names, positive_int, read_generator
from davi.system.choices import CALIBRATION, LPIPS_DEFAULT, LPIPS_VARIANTS, METRICS, ROUNDINGS
from davi.system.errors import InputError

_OF_CHECKPOINT = {"config", "set", "rounding", "seed", "num_samples", "size", "compile"}


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("--reference", type=Path, metavar="DIR", help="true images")
    parser.add_argument("--restored", type=Path, metavar="DIR", help="images to judge")
    add_generator(parser, required=False)
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="DIR",
        help="folder of `davi degrade`; with --restored: the one that was restored, for residual",
    )
    add_names(parser, "--rounding", ROUNDINGS, None, "of restorations to 8 bits (default nearest)")
    parser.add_argument("--seed", type=int, help="of the restorations (default 0)")
    parser.add_argument(
        "--num-samples", type=positive_int, metavar="N", help="of every image (default 1)"
    )
    purpose = f"(default: all; those from {CALIBRATION[0]} on are of several samples)"
    add_names(parser, "--metrics", METRICS + CALIBRATION, None, purpose)
    add_names(parser, "--lpips", LPIPS_VARIANTS, LPIPS_DEFAULT, "variants (default release,vgg)")
    parser.add_argument(
        "--batch-size", type=positive_int, default=16, help="images at a time (default 16)"
    )
    parser.add_argument(
        "--group-by",
        metavar="RULE",
        help="standard errors count groups of images, not images: `photo` (crops of one of davi's "
        "photographs, such as chelsea_r1_y000_x032), `folder` (images of one folder), or a regular "
        "expression for file names whose first (group) they share, such as '(.+)_' for lake_1 and "
        "lake_2",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: RESTORED-eval")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation")
    add_device(parser)


def run(arguments: Namespace) -> None:
    """Restores if asked to, scores, writes.

    Raises:
        InputError: half of a way, or a mixture; or as `evaluate_folders`.
    """
    from davi.folders.scoring import evaluate_folders
    from davi.system.runtime import select_device

    _require_one_way(arguments)
    restores_once = arguments.checkpoint is not None and arguments.num_samples in (None, 1)
    for reference, restored, output in _folders(arguments):
        result = evaluate_folders(
            reference,
            restored,
            arguments.metrics,
            device=select_device(arguments.device),
            measured=None if restores_once else arguments.measured,
            lpips=arguments.lpips,
            batch_size=arguments.batch_size,
            group_by=arguments.group_by,
        )
        print(result.table())
        result.save(output)
        print(f"written to {output}/per_image.csv and {output}/summary.json")


def _folders(arguments: Namespace) -> Iterator[tuple[Path, Path, Path]]:
    """Yields reference, restored and output folder of each evaluation, restored if need be."""
    from davi.folders.pairs import images_by_name
    from davi.folders.restoring import restore_measured
    from davi.folders.scoring import new_evaluation
    from davi.metrics.means import groups_by_name
    from davi.pictures.form import Form
    from davi.system.runtime import select_device

    if arguments.checkpoint is None:
        restored = arguments.restored.resolve()
        output = arguments.output or restored.with_name(f"{restored.name}-eval")
        yield arguments.reference, restored, new_evaluation(output, arguments.overwrite)
        return
    reference = arguments.measured / "reference"
    if not reference.is_dir():
        raise InputError(f"{reference}: no such folder; give --measured a folder of davi degrade")
    if arguments.group_by is not None:  # before the work
        groups_by_name(list(images_by_name(reference)), arguments.group_by)
    restorer = read_generator(arguments, select_device(arguments.device))
    for rounding in arguments.rounding or ROUNDINGS[:1]:
        restored = arguments.output / f"restored_{rounding}"
        output = arguments.output / f"restored_{rounding}-eval"
        new_evaluation(output, arguments.overwrite)  # before the work, not after it
        restore_measured(
            restorer,
            arguments.measured,
            restored,
            num_samples=arguments.num_samples or 1,
            form=Form(rounding),
            batch_size=arguments.batch_size,
            seed=arguments.seed or 0,
        )
        yield reference, restored, output


def _require_one_way(arguments: Namespace) -> None:
    """Refuses a mixture of the two ways, and half of one."""
    given = {name for name, value in vars(arguments).items() if value}
    restores = "checkpoint" in given
    if not given >= {True: {"measured", "output"}, False: {"reference", "restored"}}[restores]:
        raise InputError("give --reference, --restored, or --checkpoint, --measured and --output")
    without_effect = {"reference", "restored"} if restores else _OF_CHECKPOINT
    if found := sorted(given & without_effect):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in found)
        how = "with" if restores else "without"
        raise InputError(f"{options}: no effect {how} --checkpoint; leave it out")
