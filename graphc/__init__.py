"""graphc: a declarative graph compiler and educational visualizer."""

from __future__ import annotations

__version__ = "0.1.0"
