"""ORION's slide CRC01, as its authors rendered it at 1.3 µm/px, as a cohort: one patient."""
