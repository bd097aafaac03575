"""The training loop and what surrounds it: run folder, optimizers, averages, logs, sample grids."""
