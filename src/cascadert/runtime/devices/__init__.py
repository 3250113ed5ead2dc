"""Implementations of the `Device` contract."""
