"""Data on disk: preparing real series, splitting patients, and a phantom to try everything on without any."""
