"""One training step under guidance, and the session that a script holds."""
