"""Unit tests: every module by itself, on any CPU, in seconds."""
