"""From patch stores to a trained, calibrated and measured bundle; the paper's Table 1."""
