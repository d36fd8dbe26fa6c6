"""The report: pages to look at, made from the results alone."""
