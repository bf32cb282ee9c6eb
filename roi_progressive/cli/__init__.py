"""What is typed: the command ``roi-progressive``."""

from .main import main

__all__ = ["main"]
