"""Teaching a bundle's markers from nuclei that a pathologist has named in QuPath."""
