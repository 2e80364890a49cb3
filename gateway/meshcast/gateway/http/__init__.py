"""The HTTP door: the gateway's handlers for browsers, `curl`, and whoever has only HTTP."""
