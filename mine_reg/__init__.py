"""Mutual information neural estimation for end-to-end registration of lung CT (MIRegNet, MIDiceRegNet)."""
