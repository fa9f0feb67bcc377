"""A training run: built from its configuration, looped, written down and gone on with."""
