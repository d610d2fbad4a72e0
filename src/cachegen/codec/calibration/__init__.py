"""From samples of a model's caches to a profile whose levels are placed by measured quality."""
