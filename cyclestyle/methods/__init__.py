"""Training methods: which networks there are, what they compute and which loss terms they minimise; one paper a file."""
