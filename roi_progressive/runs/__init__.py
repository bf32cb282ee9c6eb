"""Whole runs of the bundled trainer, from data to table, figure and demo."""
