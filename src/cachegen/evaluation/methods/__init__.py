"""What is compared: each method makes coders, one for each point of its curve."""
