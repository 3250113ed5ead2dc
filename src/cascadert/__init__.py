"""Compile adaptive semantic segmentation for embedded GPUs."""

from cascadert._version import __version__

__all__ = ["__version__"]
