"""Loss functions: tensors in, scalars out; no module here has weights."""
