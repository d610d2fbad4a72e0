"""The evaluation of `cachegen eval`: methods, datasets, scores, and a report."""
