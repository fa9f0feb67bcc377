"""What a table holds once it is made: the contract between measuring and writing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOT_APPLICABLE = "not applicable"  # the reason why a method has nothing to say on a task


@dataclass(frozen=True)
class Number:
    """A measured value.

    Attributes:
        value: the mean over images, or of the whole set for FID.
        error: its standard error, in which crops of one photograph of `photos:` count once; None
            where there is none.
    """

    value: float
    error: float | None = None


@dataclass(frozen=True)
class Cell:
    """A method on a task.

    Attributes:
        row, column: ids.
        numbers: {metric: number}; without the metrics that cannot be had here.
        paper: {metric: the paper's number}.
        absent: {metric or "all": why it has no number of ours}.
        num_images: how many images `numbers` are over.
        wanted: how many they are to be over in the end.
        forward, backward: network evaluations per image, and how many were differentiated.
        per_image: {image name: {metric: value}}.
        pictures: {kind: {image name: PNG file}}; kinds: restored, kernel (of blind
            methods), mean, std (posterior, over several samples), of the shown examples.
        ranks: share of the entries whose truth has rank 0 .. N among the samples, over all images;
            empty where no samples were scored.
    """

    row: str
    column: str
    numbers: dict[str, Number] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    num_images: int = 0
    wanted: int = 0
    forward: float = 0.0
    backward: float = 0.0
    per_image: dict[str, dict[str, float]] = field(default_factory=dict)
    pictures: dict[str, dict[str, Path]] = field(default_factory=dict)
    ranks: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class TableResult:
    """A table with everything that is written about it.

    Attributes:
        title: of the table.
        rows, columns: {id: label}, in order.
        metrics: in order.
        cells: {(row id, column id): cell}, all of them.
        truth: {column id: {"reference" | "measurement": {image name: PNG file}}} of the examples.
        footnotes: {row id or "table": sentence}.
        config: the resolved configuration and hyperparameters, as YAML text.
        facts: {what: value} about machine, versions and weights.
    """

    title: str
    rows: dict[str, str]
    columns: dict[str, str]
    metrics: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    truth: dict[str, dict[str, dict[str, Path]]]
    footnotes: dict[str, str]
    config: str
    facts: dict[str, Any]
