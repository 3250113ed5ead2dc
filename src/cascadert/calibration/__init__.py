"""Measure a cascade: parity with PyTorch, mIoU, oracles."""
