"""One process, and several that must agree."""

from typing import Any

import pytest
import torch

import davi.system.world as world_module
from davi.system.errors import InputError
from davi.system.world import World, join_world
from tests.processes import in_world

CPU = torch.device("cpu")


@pytest.mark.parametrize(("count", "size", "parts"), [(8, 1, 1), (8, 3, 1), (7, 2, 2), (12, 3, 4)])
def test_shares_cover_every_position_once(count: int, size: int, parts: int) -> None:
    pieces = [piece for rank in range(size) for piece in World(rank, size, CPU).share(count, parts)]
    assert len(pieces) == size * parts
    assert [position for piece in pieces for position in piece] == list(range(count))
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) - min(lengths) <= 1


def test_a_process_without_torchrun_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in world_module.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # alone it means nothing
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.distributed) == (0, 1, False)
        assert world.max(5) == 5
        assert world.gather("x") == ["x"]
        assert torch.equal(world.sum(torch.ones(2)), torch.ones(2))
        assert world.on_first(lambda: 3) == 3


LAUNCHED = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"LOCAL_RANK": "-1", "MASTER_ADDR": ""}, "LOCAL_RANK, MASTER_ADDR"),
        ({"MASTER_PORT": "9" * 5000}, "MASTER_PORT"),
    ],
)
def test_half_of_what_a_launcher_sets_is_refused(
    changes: dict[str, str], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (LAUNCHED | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=rf"no \(usable\) {wrong}: start with torchrun"):
        join_world("cpu").__enter__()


def _talk(world: World) -> dict[str, Any]:
    def refuse() -> None:
        raise InputError("not here")

    try:
        world.on_first(refuse)
        refused = ""
    except InputError as error:
        refused = str(error)
    return {
        "max": world.max(world.rank),
        "rows": world.map_rows(lambda x: 10 * x, torch.arange(4)).tolist(),
        "few_rows": world.map_rows(lambda x: 10 * x, torch.arange(2)).tolist(),
        "sum": world.sum(torch.tensor([1.0, world.rank])).tolist(),
        "gather": world.gather(world.rank),
        "on_first": world.on_first(lambda: world.rank),
        "refused": refused,
    }


@pytest.mark.slow
def test_processes_agree() -> None:
    for said in in_world(3, _talk):
        assert said == {
            "max": 2,
            "rows": [0, 10, 20, 30],
            "few_rows": [0, 10],
            "sum": [3.0, 3.0],
            "gather": [0, 1, 2],
            "on_first": 0,
            "refused": "not here",
        }


def _fail_alone(world: World) -> None:
    if world.rank == 1:
        raise ZeroDivisionError("only here")
    world.max(0)  # would wait for the other one


@pytest.mark.slow
def test_a_process_that_fails_ends_the_job_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: only here"):
        in_world(2, _fail_alone)


def test_restarts_on_several_machines_need_a_store_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = {
        **LAUNCHED,
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        join_world("cpu").__enter__()
