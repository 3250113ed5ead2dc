"""Stages in PyTorch: what is exported, and what parity compares with."""

from cascadert.export.stages.stage import Stage, StageContext, make_stages

__all__ = ["Stage", "StageContext", "make_stages"]
