"""The gateway that agents speak to, and the releases that decide which adapter answers."""
