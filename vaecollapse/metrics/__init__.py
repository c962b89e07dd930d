"""Metrics: real data against generated data. A metric sees no model, only what it made."""
