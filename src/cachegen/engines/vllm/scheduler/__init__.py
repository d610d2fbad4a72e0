"""The side in the scheduler's process: what is loaded and saved, decided from memory."""
