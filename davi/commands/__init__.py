"""What each command of `davi` does, one file each."""
