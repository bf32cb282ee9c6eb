"""The contract with other people's code, and who keeps it: hooks, adapters, mask files, patches."""
