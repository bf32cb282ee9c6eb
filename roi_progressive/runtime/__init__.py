"""The machine: random streams, processes, jobs, and numbers that are not finite."""
