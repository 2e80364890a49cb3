"""The drift service: tells whether the world has moved away from a reference, since when, how far, and how surely."""
