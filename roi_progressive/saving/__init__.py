"""One safe reader and writer of every file of ours."""
