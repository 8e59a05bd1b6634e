"""A traced network, understood once: its levels, its layers, its ends, and what commutes with a split."""
