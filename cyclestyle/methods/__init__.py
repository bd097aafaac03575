"""Training methods: their networks, what these compute, and the loss terms that they minimise; one paper a file."""
