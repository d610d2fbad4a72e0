"""The side in the workers' processes: blocks are copied out, and loads write into blocks."""
