"""One module a room of the console; each has a `router`."""
