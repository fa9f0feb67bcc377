"""Photographs that may be shipped; README.md names their authors and licences."""
