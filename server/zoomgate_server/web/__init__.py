"""The HTTP front: what browsers and monitoring see."""
