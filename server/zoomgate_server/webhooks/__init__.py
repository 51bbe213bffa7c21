"""Events that Zoom sends."""
