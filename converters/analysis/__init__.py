"""A traced network, understood: its levels, its layers, and what commutes with a split."""
