"""Benchmarks of the hot paths: times and peak memory of contenders, side by side in one run."""
