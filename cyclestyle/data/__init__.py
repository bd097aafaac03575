"""Folders of images: found, decoded, augmented, sampled and batched; and the sample set that the project makes."""
