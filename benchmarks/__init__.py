"""Mulligan against its peers, side by side in one run, as ratios and as a share of the machine."""
