"""Running the rooms on a slide: tiles in, nucleus table and its views out."""
