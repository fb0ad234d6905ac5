"""A page that recognises: a model, what runs it and what reads clips in one HTML file, which asks nobody for anything."""
