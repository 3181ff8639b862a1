"""How seldom Python's collector is to look, in a process that does nothing but run an engine."""

GC_THRESHOLDS = (50_000, 50, 1_000)
"""A step allocates much that lives on for a while and little that is cyclic: with Python's own thresholds the collector
takes 1.9 µs of each step (SPEED.md, finding 1), and with 10,000 still a twentieth, walking through runs in flight.
Cycles are freed later, and the engine makes none."""
