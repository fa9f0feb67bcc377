"""Restorations that are kept, each under a hash of everything that determines it.

CACHE/ab/abcd....png   the restoration, rounded to 8 bits
CACHE/ab/abcd....npy   the kernel that a blind method found
CACHE/ab/abcd....json  what it took, what determines it, and its scores

The JSON is written last and holds the picture's hash: what is not whole counts as not there.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from davi.data.images import save_array, save_image
from davi.system.files import sha256_of, write_text


def digest_of(facts: Any) -> str:
    """Returns the SHA-256 of plain JSON values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Restored:
    """What is known of a restoration.

    Attributes:
        picture_sha256: of its PNG file.
        forward, backward: network evaluations it took.
        seconds: of the solver's call, by the images of the batch; for a reader who wonders, since
            what else the machine did shows in it (the table's are measured by `timing`).
        timed_on: machine, batch size and processes that the seconds belong to.
        scores: {metric: {"value", "code": hash of what computed it}}.
        facts: what determines it, for a reader who wonders.
    """

    picture_sha256: str
    forward: float
    backward: float
    seconds: float
    timed_on: str
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(isinstance(score.get("value"), float) for score in self.scores.values()):
            raise ValueError("a score without a value")


_RECORD = TypeAdapter(Restored)


@dataclass(frozen=True)
class Cache:
    """Finished restorations in a folder, which several tables and processes may share.

    Attributes:
        folder: need not exist.
    """

    folder: Path

    def picture(self, key: str) -> Path:
        """Returns where the PNG of a restoration is or would be."""
        return self.folder / key[:2] / f"{key}.png"

    def kernel(self, key: str) -> Path:
        """Returns where the kernel is that a blind method found, or would be."""
        return self.picture(key).with_suffix(".npy")

    def read(self, key: str) -> Restored | None:
        """Returns what is known of a restoration; None if it is missing or damaged."""
        try:
            found = _RECORD.validate_json(self._record(key).read_bytes())
            sound = sha256_of(self.picture(key)) == found.picture_sha256
        except (OSError, ValueError):
            return None
        return found if sound else None

    def write(self, key: str, image: Tensor, kernel: Tensor | None = None, **known: Any) -> None:
        """Keeps a restoration.

        Args:
            key: its hash.
            image: (C, H, W) in [-1, 1].
            kernel: (k, k) of a blind method.
            known: further fields of `Restored`.
        """
        path = self.picture(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, path)
        if kernel is not None:
            save_array(kernel, self.kernel(key))
        self._write(key, Restored(picture_sha256=sha256_of(path), **known))

    def add_scores(self, key: str, scores: Mapping[str, dict[str, Any]]) -> None:
        """Adds scores to a restoration that is there."""
        found = self.read(key)
        self._write(key, replace(found, scores={**found.scores, **scores}))

    def _record(self, key: str) -> Path:
        return self.picture(key).with_suffix(".json")

    def _write(self, key: str, restored: Restored) -> None:
        write_text(self._record(key), json.dumps(asdict(restored)) + "\n")
