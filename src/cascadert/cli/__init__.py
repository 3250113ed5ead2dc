"""The command line: each command is one public function, imported when it is called."""

from cascadert.cli.app import app, main

__all__ = ["app", "main"]
