"""One reference training loop, small models and real data sets; the same loop runs fixed, grown and pruned nets."""
