"""The H&E bundles, from open data sets."""
