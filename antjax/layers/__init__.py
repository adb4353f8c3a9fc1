"""Flax modules and pure functions shared by `meta` and `ctr`."""
