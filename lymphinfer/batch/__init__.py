"""Many slides: jobs, claims, one life of a slide, and the places where its tasks are done."""
