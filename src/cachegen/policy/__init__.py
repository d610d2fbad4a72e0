"""What decides: how each chunk is had, when, and at which level. Pure: no I/O, no clock, no model.

Controllers see a `LoadState` and answer with decisions; the threaded loader and the simulator drive
the same ones.
"""
