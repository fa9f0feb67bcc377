"""The page of a network on the Hugging Face Hub, written from what its file says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from davi.config.problem import damage_in_words
from davi.weights.network_file import GENERATOR, PRIOR

PICTURE = "validation.png"  # beside the page
_SAMPLE = """\
```python
import davi

restorer = davi.load("hf:{repository}")
restored = restorer.restore(y)  # y: (B, {shape}) on the [-1, 1] scale
```

```
davi sample --checkpoint hf:{repository} --input MEASUREMENTS --output RESTORED
```
"""
_GENERATE = "```\ndavi generate hf:{repository} --output IMAGES --num-images 16\n```\n"
_IMPORT = "```\ndavi import hf:{repository} --output network.safetensors\n```\n"
_WHAT = {
    GENERATOR: "A generator of DAVI: one network evaluation draws a sample of the restored image.",
    PRIOR: "A diffusion prior.",
}


@dataclass(frozen=True)
class ModelCard:
    """What a page is written from.

    Attributes:
        repository: "user/name".
        licence: of the weights, as the Hub calls it, such as "mit".
        kind: of the network, such as `GENERATOR`.
        config: the run it belongs to, as JSON values.
        iteration: how long it was trained; None if that is not known.
        scores: {name: mean} of the run's validation; {} if there are none.
        has_picture: whether `PICTURE` lies beside the page.
    """

    repository: str
    licence: str
    kind: str
    config: Mapping[str, Any]
    iteration: int | None
    scores: Mapping[str, float]
    has_picture: bool

    def text(self) -> str:
        """Returns the page, Markdown behind the block that the Hub reads."""
        tags = ["davi", "inverse-problems", "diffusion", *self._tasks()]
        picture = f"![Validation images]({PICTURE})\n\n" if self.has_picture else ""
        rows = "".join(f"| {name} | {value} |\n" for name, value in self._facts().items())
        pipeline = "image-to-image" if self._tasks() else "unconditional-image-generation"
        return (
            f"---\nlicense: {self.licence}\nlibrary_name: davi\n"
            f"pipeline_tag: {pipeline}\n"
            f"tags: [{', '.join(tags)}]\n---\n\n"
            f"# {self.repository.partition('/')[2]}\n\n"
            f"{_WHAT.get(self.kind, f'A network: {self.kind}.')}\n\n"
            f"| | |\n|---|---|\n{rows}\n{picture}"
            f"## Use\n\n`pip install 'davi[hub]'`, then\n\n{self._usage()}"
        )

    def _tasks(self) -> list[str]:
        """The task, as a tag; [] of a network without one."""
        operator = self.config.get("operator", {})
        return [operator["name"].replace("_", "-")] if "name" in operator else []

    def _facts(self) -> dict[str, str]:
        facts = {"kind": self.kind}
        if tasks := self._tasks():
            facts["task"] = tasks[0]
            if damage := damage_in_words(self.config["operator"]):
                facts["operator"] = damage
            facts["noise, on the [-1, 1] scale"] = _in_one_line(self.config["noise"])
        facts["network"] = _in_one_line(self.config["network"])
        if self.iteration is not None:
            facts["training"] = f"{self.iteration} iterations"
        for name, value in self.scores.items():
            facts[f"{name}, mean of the validation images"] = f"{value:.4g}"
        return facts | {"licence": self.licence}

    def _usage(self) -> str:
        usage = {GENERATOR: _SAMPLE, PRIOR: _GENERATE}.get(self.kind, _IMPORT)
        return usage.format(repository=self.repository, shape="*restorer.measurement_shape")


def _in_one_line(section: Mapping[str, Any]) -> str:
    """The values of a section that are set, and not off."""
    off = (None, False)
    values = {key: value for key, value in section.items() if not any(value is x for x in off)}
    return ", ".join(f"{key} {value}" for key, value in values.items())
