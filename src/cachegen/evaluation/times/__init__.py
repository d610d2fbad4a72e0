"""Times: of coding, and of loads over real links."""
