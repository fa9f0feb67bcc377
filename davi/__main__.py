"""`python -m davi`: the same as the command `davi`."""

from davi.commands.program import main

if __name__ == "__main__":
    main()
