"""Before a run: what a host is, whether its masks follow, what regions cost; and whether a data set can be read."""
