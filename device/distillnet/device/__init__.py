"""The device half: the daemon, its tools, and the updates it takes. Never imports the cloud or torch."""
