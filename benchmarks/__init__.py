"""Workloads timed in pairs against peers; ``python -m benchmarks``."""
