"""Views of the nucleus table: QuPath's GeoJSON and the summary."""
