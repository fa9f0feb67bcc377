"""What begins the command line."""

import sys

import pytest

from davi.__main__ import main


class Interrupt:
    """Ctrl-C while a module is looked for."""

    def find_spec(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_during_imports_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import davi.commands

    monkeypatch.delitem(sys.modules, "davi.commands.program", raising=False)
    monkeypatch.delattr(davi.commands, "program", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupt()])
    with pytest.raises(SystemExit, match=r"^interrupted$"):
        main()
