"""The page, and the server that shows it on this machine alone."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from davi.app.answers import CANVAS_SCALE, CLEAN, DAMAGED, Answers, forget
from davi.app.restoring import MAX_DECODED, MAX_PIXELS, NUM_SAMPLES, TASKS, trained_sigma
from davi.app.solving import MAX_SECONDS, solver_files
from davi.data.images import IMAGE_SUFFIXES
from davi.system.errors import InputError
from guided_diffusion.errors import CheckpointError

if TYPE_CHECKING:
    import gradio as gr

QUEUE = "networks"  # of both tabs: one request at a time
BUTTONS = ["download", "fullscreen"]  # and none that shares
LARGEST_SIGMA = 0.5
CANVAS_SIDE = 64 * CANVAS_SCALE
MAX_UPLOAD = 50  # megabytes
MAX_WAITING = 8  # requests, one of which is worked on at a time; further ones are refused
FORGOTTEN_AFTER = 3600  # seconds
LIMITS = (
    f"Nothing leaves this machine. Files have at most {MAX_UPLOAD} MB and "
    f"{MAX_DECODED // 10**6} million pixels. A clean picture of more than {MAX_PIXELS} pixels "
    "(256x256) is made smaller; a damaged one is refused, and `davi restore` takes it. Inpainting "
    "takes the middle square, made 64x64 pixels large, and the hole that you draw."
)
SOLVERS = (
    "Any method on the measurement of the first tab, with the shipped prior: on the middle 64x64 "
    "pixels, whose truth, where it is known, is measured anew. A method that takes longer than "
    f"{MAX_SECONDS:.0f} s is stopped."
)


def open_gradio(folder: Path) -> None:
    """Tells gradio, before its first import, where its files go, and to call nobody.

    Raises:
        InputError: it is not installed.
    """
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise InputError("davi app needs the package gradio: pip install 'davi[app]'") from error


def serve(answers: Answers, port: int | None, wait: bool = True) -> "gr.Blocks":
    """Serves the page on this machine until it is interrupted.

    Args:
        answers: in whose folder uploaded and restored pictures are.
        port: of the server; None for a free one from 7860 on.
        wait: False to return at once.

    Raises:
        InputError: gradio is not installed, or the port is taken.
    """
    open_gradio(answers.folder)
    page = _page(answers).queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    try:
        page.launch(
            share=False,
            server_name="127.0.0.1",
            server_port=port,
            max_file_size=f"{MAX_UPLOAD}mb",
            footer_links=[],
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        where = "all ports from 7860 on are" if port is None else f"port {port} is"
        raise InputError(f"{where} taken; choose another --port") from error
    print(f"the page is at {page.local_url}; Ctrl-C ends it", flush=True)
    if wait:
        page.block_thread()
    return page


def _page(answers: Answers) -> "gr.Blocks":
    import gradio as gr

    cache = (FORGOTTEN_AFTER, FORGOTTEN_AFTER)
    with gr.Blocks(title="davi", analytics_enabled=False, delete_cache=cache) as page:
        shown = gr.State(time_to_live=FORGOTTEN_AFTER, delete_callback=forget)
        seed = gr.Number(0, label="seed", precision=0, render=False)
        with gr.Tab("Restore"):
            _restoring(answers, shown, seed)
        with gr.Tab("Solvers"):
            _solving(answers, shown, seed)
    return page


def _restoring(answers: Answers, shown: "gr.State", seed: "gr.Number") -> None:
    import gradio as gr

    gr.Markdown(LIMITS)
    with gr.Row():
        photo = gr.File(label="photograph", file_types=list(IMAGE_SUFFIXES), height=150)
        with gr.Column():
            state = gr.Radio([CLEAN, DAMAGED], value=CLEAN, label="the photograph is")
            task = gr.Dropdown(list(TASKS), value=TASKS[0], label="task")
        with gr.Column():
            label = "noise of the damage, on the [-1, 1] scale"
            sigma = gr.Slider(
                0, LARGEST_SIGMA, value=trained_sigma(TASKS[0]), step=0.01, label=label
            )
            seed.render()
    editor = gr.ImageEditor(
        label="draw the hole; without one the square of the training is taken",
        visible=False,
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=40, colors=["#ff0000"], color_mode="fixed"),
        format="png",
        canvas_size=(CANVAS_SIDE, CANVAS_SIDE),
        height=CANVAS_SIDE + 150,
        buttons=[],
    )
    button = gr.Button("Restore", variant="primary")
    parts = {"notes": gr.Markdown(), "shown": shown}
    with gr.Row():
        for name in ("measurement", "restoration", "uncertainty"):
            parts[name] = gr.Image(
                label=name, format="png", height=270, buttons=BUTTONS, interactive=False
            )
    parts["slider"] = gr.ImageSlider(label="before and after", format="png", interactive=False)
    label = f"{NUM_SAMPLES} samples"
    parts["strip"] = gr.Gallery(
        label=label,
        columns=NUM_SAMPLES,
        format="png",
        height=190,
        object_fit="contain",
        buttons=BUTTONS,
    )
    parts["download"] = gr.File(label="download everything", interactive=False)
    inputs = [photo, state, task, sigma, seed, editor, shown]
    work = functools.partial(_restored, answers, parts)
    _on_click(button, work, inputs, parts, "restore")
    task.change(trained_sigma, task, sigma, api_visibility="private")
    on_canvas = functools.partial(_on_canvas, answers)
    gr.on(
        [photo.change, task.change],
        on_canvas,
        [photo, task],
        editor,
        api_visibility="private",
        concurrency_id=QUEUE,
    )


def _solving(answers: Answers, shown: "gr.State", seed: "gr.Number") -> None:
    import gradio as gr

    gr.Markdown(SOLVERS)
    with gr.Row():
        solver = gr.Dropdown(list(solver_files()), value="ddrm", label="solver")
        button = gr.Button("Solve", variant="primary")
    parts = {
        "solver_line": gr.Markdown(),
        "solver_slider": gr.ImageSlider(label="before and after", format="png", interactive=False),
        "solver_download": gr.File(label="download", interactive=False),
    }
    work = functools.partial(_solved, answers, parts)
    _on_click(button, work, [shown, solver, seed], parts, "solve")


def _on_click(
    button: "gr.Button", work: Callable, inputs: list[Any], parts: dict[str, Any], name: str
) -> None:
    """Lets a button do the work; how far it is shows in the first part alone."""
    button.click(
        work,
        inputs,
        list(parts.values()),
        concurrency_id=QUEUE,
        api_name=name,
        show_progress_on=next(iter(parts.values())),
    )


def _restored(answers: Answers, parts: dict[str, Any], photo: str | None, *rest: Any) -> Iterator:
    with _in_one_line(photo):
        for new in answers.restore(photo, *rest):
            yield {parts[name]: value for name, value in new.items()}


def _on_canvas(answers: Answers, photo: str | None, task: str) -> dict:
    """The editor with the photograph, hidden but for inpainting."""
    import gradio as gr

    with _in_one_line(photo):
        picture = answers.canvas(photo, task)
        return gr.update(value=picture, visible=picture is not None)


def _solved(answers: Answers, parts: dict[str, Any], *inputs: Any) -> dict:
    with _in_one_line(None):
        return {parts[name]: value for name, value in answers.solve(*inputs).items()}


@contextlib.contextmanager
def _in_one_line(photo: str | None) -> Iterator[None]:
    """Shows the message of what can be mended; of the photograph's path only the name."""
    import gradio as gr

    try:
        yield
    except (InputError, CheckpointError) as error:
        text = str(error)
        text = text if photo is None else text.replace(photo, Path(photo).name)
        raise gr.Error(text, print_exception=False) from error
