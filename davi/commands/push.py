"""Put a network on the Hugging Face Hub, with a page that says what it is.

The page (README.md) is written from the run: task, operator, noise, the scores and the picture of
its newest validation, the licence, and how to use it. Weights go as one safetensors file. Then
`hf:user/name` stands wherever commands and davi.load take a checkpoint. Who you are `hf auth login`
says, or HF_TOKEN. Needs `pip install 'davi[hub]'`.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from davi.commands.export import DTYPE, export_run
from davi.system.choices import STORED_DTYPES

if TYPE_CHECKING:
    from davi.weights.model_card import ModelCard


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument(
        "run", metavar="RUN_OR_FILE", type=Path, help="run folder, checkpoint or .safetensors"
    )
    parser.add_argument("repository", metavar="USER/NAME", help="on the Hub; created if needed")
    parser.add_argument(
        "--license", required=True, metavar="NAME", help="of the weights, as on the Hub: mit"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="for the page (default: the run's newest panel)"
    )
    parser.add_argument(
        "--dtype", choices=STORED_DTYPES, default=DTYPE, help=f"of a run's weights ({DTYPE})"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is for you alone")


def run(arguments: Namespace) -> None:
    """Writes file and page, and uploads them."""
    import tempfile

    from davi.weights.hub import SUFFIX, upload
    from davi.weights.model_card import PICTURE
    from davi.weights.network_file import weights_file

    source = weights_file(arguments.run)
    name = arguments.repository.rpartition("/")[2] + SUFFIX
    with tempfile.TemporaryDirectory(prefix="davi_push_") as folder:
        file = source
        if source.suffix != SUFFIX:
            file = Path(folder) / name
            export_run(source, file, arguments.dtype)
        card, picture = _card(arguments, source, file)
        files = {name: file, "README.md": card.text().encode()}
        address = upload(
            arguments.repository,
            files if picture is None else {**files, PICTURE: picture},
            arguments.private,
        )
    print(f"{address}: {card.kind}; to be used as hf:{arguments.repository}")


def _card(arguments: Namespace, source: Path, file: Path) -> "tuple[ModelCard, Path | None]":
    """The page of a file, and its picture.

    Raises:
        InputError: the file does not say what it holds, or the picture is none.
    """
    from davi.runs.statistics import last_validation
    from davi.system.errors import InputError
    from davi.weights.layouts import read_weight_file
    from davi.weights.model_card import ModelCard
    from davi.weights.network_file import read_header

    read_weight_file(file)  # refuses what is damaged
    kind, config, iteration = read_header(file)
    if kind is None or config is None:
        raise InputError(f"{source}: does not say what it holds; give what davi import makes of it")
    scores, panel = {}, None
    if source.parent.name == "checkpoints" and iteration is not None:
        scores, panel = last_validation(source.parents[1], iteration)
    picture = arguments.picture or panel
    if picture is not None and not (picture.suffix == ".png" and picture.is_file()):
        raise InputError(f"{picture}: --picture needs a PNG file")
    card = ModelCard(
        repository=arguments.repository,
        licence=arguments.license,
        kind=kind,
        config=config,
        iteration=iteration,
        scores=scores,
        has_picture=picture is not None,
    )
    return card, picture
