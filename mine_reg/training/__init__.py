"""Fitting the networks: similarity, augmentation, Lightning modules, and trained networks on disk."""
