"""Controllers: they choose how and when each chunk is loaded, and at which level.

They read a `LoadState` and return decisions, without I/O, clock or model. The threaded loader and
the simulator drive the same ones.
"""
