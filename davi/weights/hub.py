"""Networks on the Hugging Face Hub, as `hf:user/name`: fetched, and put there.

Only safetensors files are fetched, so that nothing from there is ever unpickled.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from davi.system.errors import InputError, shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
SUFFIX = ".safetensors"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def is_on_hub(path: str | Path) -> bool:
    """Returns whether this names a network on the Hub."""
    return str(path).startswith(PREFIX)


def fetch(name: str) -> Path:
    """Returns the safetensors file of a repository, in the cache of huggingface_hub.

    Args:
        name: "hf:user/name" of a repository with one such file, or "hf:user/name/FILE", which
            needs no network once it is in the cache.

    Raises:
        InputError: huggingface_hub is not installed, or there is no such file.
    """
    repository, file = _parts(name)
    with _hub(name) as api:
        revision = None
        if file is None:
            info = api.model_info(repository)
            names = [each.rfilename for each in info.siblings or []]
            revision, file = info.sha, _only_one(names, name)
        return Path(api.hf_hub_download(repository, file, revision=revision))


def upload(repository: str, files: Mapping[str, Path | bytes], private: bool) -> str:
    """Puts files into a repository, in one commit; it is created if needed.

    Args:
        repository: "user/name".
        files: {path in the repository: a file, or its content}.
        private: of a new repository.

    Returns:
        The address of the repository.

    Raises:
        InputError: huggingface_hub is not installed, or the Hub refuses.
    """
    name = f"{PREFIX}{repository}"
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{repository}: write the repository as user/name")
    with _hub(name) as api:
        from huggingface_hub import CommitOperationAdd

        address = api.create_repo(repository, private=private, exist_ok=True)
        additions = [CommitOperationAdd(path, content) for path, content in files.items()]
        api.create_commit(repository, additions, commit_message="Add a network of davi")
    return str(address)


def _parts(name: str) -> tuple[str, str | None]:
    """The repository and the file that a name means; None for its only one."""
    user, _, rest = name.removeprefix(PREFIX).partition("/")
    own, _, file = rest.partition("/")
    repository = f"{user}/{own}"
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{name}: write it as hf:user/name, or hf:user/name/FILE{SUFFIX}")
    if file and not file.endswith(SUFFIX):
        raise InputError(f"{name}: only {SUFFIX} files are taken from the Hub; others may run code")
    return repository, file or None


def _only_one(files: list[str], name: str) -> str:
    found = [file for file in files if file.endswith(SUFFIX)]
    if not found:
        raise InputError(f"{name}: holds no {SUFFIX} file; there is {shown(files) or 'nothing'}")
    if len(found) > 1:
        raise InputError(f"{name}: holds {shown(found)}; name one, as in {name}/{found[0]}")
    return found[0]


@contextlib.contextmanager
def _hub(name: str) -> Iterator["HfApi"]:
    """Gives what speaks with the Hub, and makes one line of its errors."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub import errors as hub
    except ImportError as error:
        message = f"{name}: needs the package huggingface_hub: pip install 'davi[hub]'"
        raise InputError(message) from error
    try:
        yield HfApi(library_name="davi")
    except hub.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: no such repository on the Hub, or one that is not for everybody (hf auth "
            "login says who you are)"
        ) from error
    except hub.LocalEntryNotFoundError as error:
        raise InputError(f"{name}: the Hub cannot be reached; it is not in the cache") from error
    except hub.EntryNotFoundError as error:
        raise InputError(f"{name}: the repository holds no such file") from error
    # HTTPError is of the HTTP library below, another one in each version of huggingface_hub.
    except (OSError, hub.HTTPError, hub.HFValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name}: the Hub cannot be used ({reason}); a file in the cache needs no network, as "
            f"{PREFIX}user/name/FILE{SUFFIX}"
        ) from error
