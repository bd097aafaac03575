"""Networks: generators, discriminators, their layers and initialisation; built from a config section in `build`."""
