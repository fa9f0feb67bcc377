"""Means over images, and their standard errors where images belong together."""

import math
import re
from collections.abc import Hashable, Sequence

import numpy as np

from davi.system.choices import GROUP_PATTERNS
from davi.system.errors import InputError


def mean_and_error(
    values: Sequence[float], groups: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """Returns {"mean", "standard_error"} of N values in G groups.

    The error is sqrt(G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2) / N. Values may resemble each
    other within a group; the groups are independent. Where every value is a group, this is the
    usual error. NaN for a single group, or infinite values.

    Source: Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models", for
    a mean, with the factor G / (G - 1) of Cameron and Miller 2015, "A practitioner's guide to
    cluster-robust inference".

    Args:
        values: of the images.
        groups: the group of each; by default each is one by itself.
    """
    count, mean = len(values), sum(values) / len(values)
    keys = range(count) if groups is None else groups
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    if len(numbers) < 2 or not math.isfinite(mean):  # PSNR of identical images is infinite
        return {"mean": mean, "standard_error": math.nan}
    deviations = np.asarray(values) - np.mean(values)
    totals = np.bincount([numbers[key] for key in keys], deviations) * (len(numbers) / count)
    variance = np.square(totals).sum() / (len(numbers) - 1)
    return {"mean": mean, "standard_error": math.sqrt(variance) / math.sqrt(len(numbers))}


def groups_by_name(names: Sequence[str], rule: str) -> list[str]:
    """Returns the group of each image.

    Args:
        names: relative paths without suffix.
        rule: a key of `davi.system.choices.GROUP_PATTERNS`, or a regular expression: what its first
            group matches in the name, or all of it where it has no group, names the group.

    Raises:
        InputError: no regular expression, one that does not match a name, or one group only.
    """
    try:
        pattern = re.compile(GROUP_PATTERNS.get(rule, rule))
    except re.error as error:
        raise InputError(f"--group-by {rule}: no regular expression ({error})") from error
    found = [match and match[min(pattern.groups, 1)] for match in map(pattern.search, names)]
    if None in found:
        raise InputError(
            f"--group-by {rule}: does not match {names[found.index(None)]}; it must find "
            "a group in every file name without suffix"
        )
    if len(set(found)) < 2:
        raise InputError(
            f"--group-by {rule}: all {len(names)} images are in one group ({found[0]!r}); an error "
            "needs two or more"
        )
    return found
