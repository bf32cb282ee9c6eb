"""Every error this package raises on purpose, in one tree.

A message is one line: the argument in backticks, what was expected, what came, and what to do.
"""

from __future__ import annotations


class RoiProgressiveError(Exception):
    """Base of all errors raised on purpose; the command line prints it and exits with status 2."""


class ConfigError(RoiProgressiveError, ValueError):
    """A configuration key, type, range or combination is wrong."""


class ShapeError(RoiProgressiveError, ValueError):
    """A tensor or array has the wrong shape, data type or value range."""


class MaskError(RoiProgressiveError, ValueError):
    """A region mask is missing, unreadable, or of another size than its image."""


class DataError(RoiProgressiveError, ValueError):
    """A file, folder, manifest or data set cannot be used as it is."""


class HostNotSupportedError(RoiProgressiveError, TypeError):
    """No adapter understands the host object given to ``attach``."""


class CheckpointError(RoiProgressiveError, RuntimeError):
    """A checkpoint is missing, damaged, of another format or of another configuration."""


class DivergenceError(RoiProgressiveError, ArithmeticError):
    """Step after step, the numbers of the training are infinite or NaN."""


class PluginError(RoiProgressiveError, RuntimeError):
    """A plugin is misspelled, clashes with another, or returned what its hook does not allow."""
