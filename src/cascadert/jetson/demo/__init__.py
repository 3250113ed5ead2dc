"""The demo: everything that cascadert does, once, on a generated street, with pictures and a report."""

from cascadert.jetson.demo.make import DemoOptions, DemoSummary, Progress, make_demo

__all__ = ["DemoOptions", "DemoSummary", "Progress", "make_demo"]
