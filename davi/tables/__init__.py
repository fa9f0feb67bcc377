"""The paper's tables: which method restores what, measured in one way, next to the paper's numbers."""
