"""Restore photographs on a page in the browser, served on this machine alone.

Drop a photograph, choose a task, and see its measurement, eight restorations and where they differ;
a second tab runs any solver. Pictures are kept in a temporary folder, which is removed at the end.
"""

from argparse import ArgumentParser, Namespace

from davi.commands.options import add_device, positive_int
from davi.system.choices import PRECISIONS


def add_arguments(parser: ArgumentParser) -> None:
    """Adds what the command line takes."""
    parser.add_argument("--port", type=positive_int, help="default: a free one from 7860 on")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default fp32")
    add_device(parser)


def run(arguments: Namespace) -> None:
    """Serves the page until it is interrupted."""
    import tempfile
    from pathlib import Path

    from davi.app.answers import Answers
    from davi.app.page import serve
    from davi.system.runtime import select_device

    device = str(select_device(arguments.device))
    with tempfile.TemporaryDirectory(prefix="davi_app_") as folder:
        serve(Answers(Path(folder), device, arguments.precision), arguments.port)
