"""All growth methods under equal conditions: from the same small nets to the same widths, on real images."""
