"""The ORION cohort: manifest, download, cell tables, gating, curation, sampling, patch stores."""
