"""Implementations of the `Executable` contract."""
