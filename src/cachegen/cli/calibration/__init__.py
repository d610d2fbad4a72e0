"""`cachegen calibrate`: a profile for a model, from text, with a forecast of time and memory."""
