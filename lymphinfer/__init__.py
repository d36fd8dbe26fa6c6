"""LymphInfer: lymphocyte markers from plain H&E whole-slide images."""

__version__ = "0.1.0"
