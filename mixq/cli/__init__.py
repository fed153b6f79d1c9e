"""The command line: one file per command; the only room that prints."""

from mixq.cli.main import main

__all__ = ["main"]
