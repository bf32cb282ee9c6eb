"""One module a host; installed as ``roi_progressive.adapters``, found as plugins, never imported by the core."""
