"""Whole runs of the bundled host: train, translate, evaluate, draw, and the demo."""
